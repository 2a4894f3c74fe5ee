"""A broker in this process, for tests of what consumes and publishes: partitions, groups, rebalances, redelivery.

It behaves like Kafka: members of a group own whole partitions, each join and leave takes all of them from all members
and deals them out anew, and what was taken before that is lost to whoever held it. `down` makes it unavailable.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from deployments.runtime.errors import ParakhError
from serve_app.events.brokers.base import BrokerUnavailable, MessageTooLarge, OutRecord, TopicMissing, publish_in_order
from serve_app.events.brokers.offsets import ContiguousOffsets, Partition
from serve_app.events.message import Message


class FakeBroker:
    def __init__(self, topics: Sequence[str] = (), *, partitions: int = 4, max_message_bytes: int = 2**20) -> None:
        self.partitions = partitions
        self.max_message_bytes = max_message_bytes
        self.down = False
        self._logs: dict[Partition, list[Message]] = {}
        self._committed: dict[tuple[str, Partition], int] = {}
        self._members: dict[str, list[FakeSource]] = {}
        self._grown = asyncio.Event()
        self.ensure_topics(topics)

    def ensure_topics(self, topics: Sequence[str]) -> None:
        for topic in topics:
            for number in range(self.partitions):
                self._logs.setdefault((topic, number), [])

    def source(self, topics: Sequence[str], group: str = "parakh") -> FakeSource:
        self.ensure_topics(topics)
        return FakeSource(self, tuple(topics), group)

    def producer(self) -> FakeProducer:
        return FakeProducer(self)

    def messages(self, topic: str) -> list[Message]:
        """All of a topic, by partition."""
        return [m for (name, _), log in sorted(self._logs.items()) if name == topic for m in log]

    def committed(self, topic: str, partition: int, group: str = "parakh") -> int:
        return self._committed.get((group, (topic, partition)), 0)

    def append(self, record: OutRecord) -> Message:
        """Raises BrokerUnavailable, TopicMissing, MessageTooLarge."""
        self.check()
        if (record.topic, 0) not in self._logs:
            raise TopicMissing
        if len(record.value) > self.max_message_bytes:
            raise MessageTooLarge
        number = zlib.crc32(record.key) % self.partitions if record.key is not None else self._shortest(record.topic)
        log = self._logs[record.topic, number]
        message = Message(
            record.topic, number, len(log), record.value, datetime.now(UTC), record.key, dict(record.headers)
        )
        log.append(message)
        self.wake()
        return message

    def check(self) -> None:
        if self.down:
            raise BrokerUnavailable

    def wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    async def grown(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._grown.wait(), wait_s)

    def log(self, partition: Partition) -> list[Message]:
        return self._logs[partition]

    def commit(self, group: str, offsets: dict[Partition, int]) -> None:
        for partition, offset in offsets.items():
            self._committed[group, partition] = offset

    def join(self, member: FakeSource) -> None:
        self._members.setdefault(member.group, []).append(member)
        self._rebalance(member.group)

    def leave(self, member: FakeSource) -> None:
        if member in self._members.get(member.group, []):
            self._members[member.group].remove(member)
            self._rebalance(member.group)

    def _rebalance(self, group: str) -> None:
        members = self._members[group]
        dealt: dict[int, dict[Partition, int]] = {id(member): {} for member in members}
        for partition in sorted(self._logs):
            able = [member for member in members if partition[0] in member.topics]
            if able:
                start = self._committed.get((group, partition), 0)
                dealt[id(able[partition[1] % len(able)])][partition] = start
        for member in members:
            member.assigned(dealt[id(member)])
        self.wake()

    def _shortest(self, topic: str) -> int:
        return min(range(self.partitions), key=lambda number: len(self._logs[topic, number]))


class FakeSource:
    keep_every_s = 5.0

    def __init__(self, broker: FakeBroker, topics: tuple[str, ...], group: str) -> None:
        self.topics, self.group = topics, group
        self._broker = broker
        self._positions: dict[Partition, int] = {}
        self._offsets = ContiguousOffsets()
        self._held: dict[tuple[str, int, int], Message] = {}

    async def start(self) -> None:
        self._broker.leave(self)
        self._broker.check()
        self._broker.join(self)

    def assigned(self, positions: dict[Partition, int]) -> None:
        """A rebalance: these are ours now, from these offsets on; what was taken before is not."""
        self._positions = positions
        self._offsets.clear()
        self._held.clear()

    async def take(self, limit: int, wait_s: float) -> list[Message]:
        self._broker.check()
        if not (found := self._next(limit)):
            await self._broker.grown(wait_s)
            self._broker.check()
            found = self._next(limit)
        return found

    def _next(self, limit: int) -> list[Message]:
        found: list[Message] = []
        for partition, position in self._positions.items():
            log = self._broker.log(partition)
            given = [replace(message) for message in log[position : position + limit - len(found)]]
            self._positions[partition] += len(given)
            for message in given:
                self._offsets.taken(partition, message.offset)
                self._held[message.place] = message
            found += given
        return found

    async def done(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._offsets.done((message.topic, message.partition), message.offset)
            self._held.pop(message.place, None)
        if not self._broker.down:
            offsets = self._offsets.committable()
            self._broker.commit(self.group, offsets)
            self._offsets.committed(offsets)

    async def release(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._held.pop(message.place, None)

    async def keep(self, messages: Sequence[Message]) -> None:
        pass

    def lost(self, messages: Iterable[Message]) -> list[Message]:
        return [message for message in messages if self._held.get(message.place) is not message]

    async def lag(self) -> dict[str, int] | None:
        if self._broker.down:
            return None
        behind = dict.fromkeys(self.topics, 0)
        for topic, number in self._positions:
            end = len(self._broker.log((topic, number)))
            behind[topic] += end - self._broker.committed(topic, number, self.group)
        return behind

    async def close(self) -> None:
        self._broker.leave(self)
        self.assigned({})


class FakeProducer:
    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker

    async def start(self) -> None:
        self._broker.check()

    async def publish(self, records: Sequence[OutRecord]) -> list[ParakhError | None]:
        return await publish_in_order(records, self._send)

    async def _send(self, record: OutRecord) -> ParakhError | None:
        try:
            self._broker.append(record)
        except ParakhError as error:
            return error
        return None

    async def close(self) -> None:
        pass
