"""The HTTP node: one FastAPI app per replica, over the pipeline, the records and the media store."""

from __future__ import annotations

import ipaddress

from fastapi import FastAPI
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter

from deployments.policy.policy import Policy, default_policy
from serve_app.config import AppConfig
from serve_app.graph import RayNodes
from serve_app.http.app import create_app
from serve_app.http.services import Services
from serve_app.lookup import Lookup
from serve_app.media_store import open_media_store
from serve_app.nodes import encoder_cards
from serve_app.pipeline import Pipeline
from serve_app.records import Records
from serve_app.records.references import FloodLimit
from serve_app.streams.judging import ClipJudge


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
        policy = Policy.load(config.policy) if config.policy else default_policy()
        indexing = config.similarity.indexing
        records = Records(config.records_url, FloodLimit(indexing.quarantine_posts, indexing.quarantine_window_s))
        lookup = Lookup(
            self._nodes.similarity,
            records.known,
            reuse=indexing.reuse_verdicts and config.similarity.enabled,
            timeout_s=indexing.match_timeout_s,
            observer=RayLookupObserver(),
        )
        self._pipeline = Pipeline(self._nodes, policy, lookup)
        await self._nodes.check_encoders(encoder_cards(await self._pipeline.status()))
        self._services = Services(
            moderator=self._pipeline,
            records=records,
            media_store=open_media_store(config.media_store_url),
            settings=config.http,
            profile=config.profile,
            profile_note=config.profile_note,
            policy_version=policy.version,
            fetch_media=self._nodes.fetch,
            index=self._nodes.similarity,
            indexing=indexing,
            clips=ClipJudge(self._nodes, policy, config.streams.cut) if config.streams.enabled else None,
            stream_windows=policy.streams.windows,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._services)


class RayLookupObserver:
    """LookupObserver over Ray's own metrics."""

    def __init__(self) -> None:
        self._matches = Counter("parakh_matches", "Matches in verdicts.", tag_keys=("use", "stage"))
        self._reused = Counter("parakh_reused_verdicts", "Exact re-uploads that no encoder had to run for.")
        self._failed = Counter("parakh_failed_match_searches", "Verdicts whose search for matches failed.")

    def matched(self, use: str, stage: str) -> None:
        self._matches.inc(1, {"use": use, "stage": stage})

    def reused(self) -> None:
        self._reused.inc()

    def search_failed(self) -> None:
        self._failed.inc()


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
