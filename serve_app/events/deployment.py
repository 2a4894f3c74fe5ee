"""The event path as a node of the Serve application: each replica is one member of the consumer group."""

from __future__ import annotations

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.runtime.values import NodeStatus
from serve_app.assembly import assemble
from serve_app.config import AppConfig
from serve_app.events.path import EventPath
from serve_app.graph import RayNodes
from serve_app.metrics import Metrics
from serve_app.ray_metrics import RayMeter


class ConsumerEnded(Exception):
    """Told to Serve by the health check, which then replaces the replica."""


@serve.deployment(name="events")
class EventsDeployment:
    async def __init__(self, config: AppConfig, nodes: dict[str, DeploymentHandle]) -> None:  # type: ignore[misc]
        handles = RayNodes(nodes)
        metrics = Metrics(RayMeter())
        parts = assemble(config, handles, handles.similarity, metrics.lookup)
        self._path = EventPath(config, handles, parts, metrics=metrics)
        await self._path.start()

    async def status(self) -> NodeStatus:
        if self._path.failed:
            return NodeStatus("events", "sick", "the consumer ended; the log says why")
        return NodeStatus("events", "ready", f"{self._path.in_flight} messages in work")

    async def check_health(self) -> None:
        if self._path.failed:
            raise ConsumerEnded

    async def __del__(self) -> None:
        """Serve waits for this when the replica stops in good order."""
        await self._path.stop()
