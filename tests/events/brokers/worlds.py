"""The same small world on every broker: topics, members of groups, a producer; and the means to take it away."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any

from serve_app.events.brokers import OutRecord, Producer, Source, ensure_topics, open_producer, open_source
from serve_app.events.brokers.fake import FakeBroker
from serve_app.events.message import Message
from serve_app.events.settings import BrokerSettings

# short enough for tests; the in-memory broker knows no producer ids
KAFKA: dict[str, Any] = {"session_timeout_s": 6.0, "max_poll_interval_s": 3.0, "idempotent": False, "partitions": 4}
NATS: dict[str, Any] = {"ack_wait_s": 2.0}


def settings_for(kind: str, server: str, **changes: Any) -> BrokerSettings:
    given = {"kind": kind, "servers": [server], "connect_timeout_s": 3.0, "request_timeout_s": 3.0}
    return BrokerSettings.model_validate(given | {"kafka": KAFKA, "nats": NATS} | changes)


class World:
    def __init__(self, name: str, fake: FakeBroker | None = None, settings: BrokerSettings | None = None) -> None:
        self.name = name
        self.run = uuid.uuid4().hex[:8]  # every world has its own groups
        self.fake = fake
        self._settings = settings
        self._opened: list[Source | Producer] = []

    @property
    def settings(self) -> BrokerSettings:
        assert self._settings is not None
        return self._settings

    async def topic(self, partitions: int = 4) -> str:
        name = f"test.{uuid.uuid4().hex[:12]}"
        if self.fake is not None:
            self.fake.partitions = partitions
            self.fake.ensure_topics([name])
        else:
            kafka = self.settings.kafka.model_copy(update={"partitions": partitions})
            await ensure_topics(self.settings.model_copy(update={"kafka": kafka}), [name])
        return name

    async def source(self, *topics: str, group: str = "g") -> Source:
        group = f"{group}-{self.run}"
        if self.fake is not None:
            source: Source = self.fake.source(topics, group)
        else:
            source = open_source(self.settings.model_copy(update={"group": group}), topics)
        self._opened.append(source)
        await source.start()
        return source

    async def producer(self) -> Producer:
        producer: Producer = self.fake.producer() if self.fake is not None else open_producer(self.settings)
        self._opened.append(producer)
        await producer.start()
        return producer

    async def send(self, topic: str, values: Iterable[bytes], keys: int = 3) -> None:
        """Keys go round: the n-th value under key n modulo `keys`."""
        producer = await self.producer()
        records = [OutRecord(topic, b"k%d" % (n % keys), value) for n, value in enumerate(values)]
        assert await producer.publish(records) == [None] * len(records)

    async def close(self) -> None:
        for opened in reversed(self._opened):
            await opened.close()


async def take(source: Source, count: int, within_s: float = 30.0) -> list[Message]:
    """At least `count` messages, in as many takes as it needs."""
    found: list[Message] = []
    async with asyncio.timeout(within_s):
        while len(found) < count:
            found += await source.take(count - len(found), 0.5)
    return found


async def nothing_more(source: Source, for_s: float = 1.5) -> bool:
    return not await source.take(10, for_s)


def values(messages: Iterable[Message]) -> list[bytes]:
    return [message.value for message in messages]


def numbers(count: int) -> list[bytes]:
    return [b"%04d" % n for n in range(count)]
