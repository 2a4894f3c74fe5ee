"""GET /livez: the process answers. GET /readyz: which nodes can judge, with the reason where one cannot.

Not ready only where no verdict can be given: fusion or every encoder is down, or the keys cannot be checked. Anything
less is `degraded` and still 200: posts then carry a failed modality.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Literal

from fastapi import APIRouter, Request, Response

from deployments.runtime.errors import NodeUnavailable, ParakhError
from deployments.runtime.values import NodeStatus
from serve_app.http.schemas import ErrorBody, LivenessBody, NodeBody, ReadinessBody
from serve_app.http.services import Services

log = logging.getLogger(__name__)
NOT_ENCODERS = frozenset({"fusion", "media", "wav2vec2", "events", "similarity", "review_gate", "records", "graph"})
STATUS_TIMEOUT_S = 5.0
router = APIRouter(tags=["health"])


class Readiness:
    """Looks at the nodes at most once in `ttl_s`, however many probes ask; one look at a time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._looking = asyncio.Lock()
        self._seen: ReadinessBody | None = None
        self._seen_at = 0.0

    async def look(self) -> ReadinessBody:
        async with self._looking:
            clock = asyncio.get_running_loop().time
            if self._seen is None or clock() - self._seen_at > self._services.settings.readiness_ttl_s:
                self._seen, self._seen_at = await self._ask(), clock()
            return self._seen

    async def _ask(self) -> ReadinessBody:
        nodes, records = await asyncio.gather(self._nodes(), self._records())
        return ReadinessBody(
            status=overall(nodes, records, keys_needed=self._services.settings.auth == "keys"),
            profile=self._services.profile,
            profile_note=self._services.profile_note,
            nodes=[_body(node) for node in (*nodes, records)],
        )

    async def _nodes(self) -> list[NodeStatus]:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return await self._services.moderator.status()
        except TimeoutError:
            return [NodeStatus("graph", "sick", f"no answer within {STATUS_TIMEOUT_S:.0f} s")]
        except ParakhError as error:
            return [NodeStatus("graph", "sick", str(error))]
        except Exception:  # a probe must answer, whatever the graph does
            log.exception("the graph's status failed")
            return [NodeStatus("graph", "sick", "its status could not be read; the log says why")]

    async def _records(self) -> NodeStatus:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                await self._services.records.ping()
        except (NodeUnavailable, TimeoutError):
            return NodeStatus("records", "sick", "the database does not answer")
        return NodeStatus("records", "ready")


def overall(
    nodes: list[NodeStatus], records: NodeStatus, *, keys_needed: bool
) -> Literal["ready", "degraded", "not_ready"]:
    ready = {node.node for node in nodes if node.state == "ready"}
    no_verdict = "fusion" not in ready or not ready - NOT_ENCODERS
    if no_verdict or (keys_needed and records.state != "ready"):
        return "not_ready"
    return "ready" if len(ready) == len(nodes) and records.state == "ready" else "degraded"


def _body(node: NodeStatus) -> NodeBody:
    return NodeBody.model_validate(_shown(node))


def _shown(node: NodeStatus) -> dict[str, object]:
    model = node.model
    shown = {key: value for key, value in dataclasses.asdict(node).items() if key != "model"}
    names = ("name", "version", "weights", "note")
    return shown | {"model": None if model is None else {name: getattr(model, name) for name in names}}


@router.get("/livez", response_model=LivenessBody, responses={500: {"model": ErrorBody}})
async def livez() -> LivenessBody:
    """The process is up."""
    return LivenessBody()


@router.get(
    "/readyz",
    response_model=ReadinessBody,
    responses={503: {"model": ReadinessBody, "description": "No verdict can be given."}, 500: {"model": ErrorBody}},
)
async def readyz(request: Request, response: Response) -> ReadinessBody:
    """Each node's state, reason and last real forward pass."""
    readiness: Readiness = request.app.state.readiness
    found = await readiness.look()
    if found.status == "not_ready":
        response.status_code = 503
        response.headers["Retry-After"] = "2"
    return found
