"""Who runs when, and what it cost: clips into the broker, results out of it, processor time of everybody between."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.livestream.clips import Sender
from benchmarks.livestream.servers import Server
from benchmarks.livestream.worker import Spent, Worker
from serve_app.events.brokers import ensure_topics
from serve_app.events.settings import BrokerSettings

_LOST_AFTER_S = 120.0  # nothing came out for so long
_MAX_BYTES = 2 << 20


@dataclass(frozen=True)
class PathCost:
    """Processor time in seconds that some clips took from broker to broker."""

    clips: int
    spent: Spent
    broker: float
    database: float
    wall: float
    skipped: int

    @property
    def everything(self) -> float:
        return self.spent.total + self.broker + self.database


def added(costs: Sequence[PathCost]) -> PathCost:
    spent = [cost.spent for cost in costs]
    return PathCost(
        sum(cost.clips for cost in costs),
        Spent(sum(s.total for s in spent), sum(s.model for s in spent), sum(s.loop for s in spent)),
        sum(cost.broker for cost in costs),
        sum(cost.database for cost in costs),
        sum(cost.wall for cost in costs),
        sum(cost.skipped for cost in costs),
    )


class Rounds:
    """The parent's clients of the broker. The results of the contenders are counted as they come out of it."""

    def __init__(self, address: str, broker: Server, database: Server) -> None:
        self._address, self._broker, self._database = address, broker, database
        self._producer = AIOKafkaProducer(
            bootstrap_servers=address, enable_idempotence=False, max_request_size=_MAX_BYTES
        )
        self._results: dict[str, AIOKafkaConsumer] = {}  # by topic, from its beginning

    async def start(self, topics: Sequence[str]) -> None:
        settings = {"kind": "kafka", "servers": [self._address], "kafka": {"partitions": 1}}
        await ensure_topics(BrokerSettings.model_validate(settings), topics)
        await self._producer.start()

    async def stop(self) -> None:
        for client in (self._producer, *self._results.values()):
            await client.stop()

    async def path(self, worker: Worker, way: tuple[str, str], clips: int, sender: Sender) -> PathCost:
        """`way`: topic that the contender reads, topic that it writes.

        Raises TimeoutError where a clip is lost, ValueError where one is told twice.
        """
        results = await self._results_of(way[1])
        messages = [sender.next() for _ in range(clips)]
        waiting = {message.identity for message in messages}
        worker.begin()
        servers, started = (self._broker.cpu_s(), self._database.cpu_s()), time.perf_counter()
        for one in messages:
            await self._producer.send(way[0], one.value, key=one.key, headers=one.headers)
        await self._producer.flush()
        skipped = 0
        while waiting:
            told = _result((await asyncio.wait_for(results.getone(), _LOST_AFTER_S)).value)
            identity = told["stream_id"], told["start_s"]
            if identity not in waiting:
                raise ValueError(f"a result came that nobody waits for: {identity}")
            waiting.remove(identity)
            skipped += told["category_scores"] is None
        wall_s = time.perf_counter() - started
        spent = worker.end()
        broker, database = self._broker.cpu_s() - servers[0], self._database.cpu_s() - servers[1]
        return PathCost(clips, spent, broker, database, wall_s, skipped)

    async def _results_of(self, topic: str) -> AIOKafkaConsumer:
        if topic not in self._results:
            results = AIOKafkaConsumer(topic, bootstrap_servers=self._address, auto_offset_reset="earliest")
            await results.start()
            self._results[topic] = results
        return self._results[topic]


def _result(value: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(value)
    data: dict[str, Any] = body.get("data", body)
    return data
