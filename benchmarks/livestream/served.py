"""This system: the event path as `parakh consume` runs it, with the node in the same process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.livestream.clips import sounds
from benchmarks.livestream.worker import Setup
from serve_app.assembly import assemble
from serve_app.config import AppConfig
from serve_app.events.path import EventPath
from serve_app.local_nodes import LocalNodes
from serve_app.metrics import Metrics, PrometheusMeter
from serve_app.records import outbox

TOPIC, RESULTS = "livestream.clips", outbox.CLIPS
_MODEL: dict[str, Any] = {"weights": "random"}


class Served:
    def __init__(
        self, setup: Setup, encoder: Mapping[str, Any] = _MODEL, consumer: Mapping[str, Any] | None = None
    ) -> None:
        topics = {"posts": "", "clips": TOPIC, "views": ""}
        broker = {"kind": "kafka", "servers": [setup.broker], "kafka": {"idempotent": False}, "topics": topics}
        given: dict[str, Any] = {
            "data_dir": str(setup.directory),
            "records_url": setup.records_url,
            "streams": {"encoder": encoder},
            "events": {"broker": broker, "consumer": consumer or {}},
        }
        config = AppConfig.model_validate(given)
        self._nodes = LocalNodes(config)
        metrics = Metrics(PrometheusMeter())
        self._path = EventPath(config, self._nodes, assemble(config, self._nodes, None), metrics=metrics)
        self._sounds = sounds(4)

    async def start(self) -> None:
        await self.alone(1)
        await self._path.start()

    async def alone(self, count: int) -> None:
        for at in range(count):
            await self._nodes.classify_sound(self._sounds[at % len(self._sounds)], None)


def path_alone(setup: Setup) -> Served:
    """With a model that costs nothing. A transaction for every clip, as a model that gives one at a time makes it."""
    return Served(setup, {"variant": "fake"}, {"max_batch": 1})
