"""The HTTP node: one FastAPI app per replica, over the pipeline, the records and the media store."""

from __future__ import annotations

import ipaddress

from fastapi import FastAPI
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from serve_app.assembly import assemble
from serve_app.config import AppConfig
from serve_app.events.path import OutgoingEvents
from serve_app.gating import ReviewEverything
from serve_app.graph import RayNodes
from serve_app.http.app import create_app
from serve_app.http.services import Services
from serve_app.metrics import Metrics
from serve_app.nodes import encoder_cards
from serve_app.promise import Promise
from serve_app.ray_metrics import RayMeter


class OpenDoorRefused(Exception):
    """`auth: off` on an address that others can reach."""


@serve.deployment(name="ingress")
@serve.ingress()
class IngressDeployment:
    """Raises OpenDoorRefused, or WrongWeights where the fusion head was trained for other encoders."""

    async def __init__(  # type: ignore[misc]  # Serve awaits an async constructor
        self, config: AppConfig, nodes: dict[str, DeploymentHandle]
    ) -> None:
        refuse_open_door(config.http.auth, str(_get_global_client().http_config.host))
        self._nodes = RayNodes(nodes)
        metrics = Metrics(RayMeter())
        parts = assemble(config, self._nodes, self._nodes.similarity, metrics.lookup)
        await self._nodes.check_encoders(encoder_cards(await parts.pipeline.status()))
        self._services = Services(
            moderator=parts.pipeline,
            records=parts.records,
            media_store=parts.media_store,
            settings=config.http,
            profile=config.profile,
            profile_note=config.profile_note,
            policy_version=parts.policy.version,
            fetch_media=self._nodes.fetch,
            index=self._nodes.similarity,
            indexing=config.similarity.indexing,
            clips=parts.clips,
            stream_windows=parts.policy.streams.windows,
            promise=Promise(config.promise),
            retention=config.retention,
            ages=metrics.ages,
            gate=self._nodes.gate or ReviewEverything(),
            gating=config.gate.gating,
            gate_observer=metrics.gate,
            outgoing=OutgoingEvents(config, parts.records, parts.media_store, metrics),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._services)


def refuse_open_door(auth: str, host: str) -> None:
    """Without keys, only this machine may ask."""
    if auth == "off" and not _is_loopback(host):
        raise OpenDoorRefused(
            f"`auth: off` is refused while HTTP listens on {host}: set http_options.host to 127.0.0.1, or auth to keys"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
