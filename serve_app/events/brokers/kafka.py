"""Kafka -> messages in flight -> the highest contiguous offset of each partition, committed.

Heartbeats run beside the work, so a slow batch costs no membership. Not polling is the back-pressure: one fetch of each
partition waits in memory, then fetching stops. `keep` polls for nothing, which tells the group that this consumer is
alive though it takes nothing; one that neither takes nor keeps leaves after `max_poll_interval_s`.

Rebalances are eager: every partition is revoked, what is done is committed, the rest is dropped and comes again to
whoever owns it then. A commit that comes too late is refused by the broker and harms nothing.

Since KIP-74 (0.10.1) a broker sends the first message of a fetch whole, however large, so that neither limit on bytes
can wedge a partition; a message that is too large for the consumer is taken and refused there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from serve_app.events.brokers.base import BrokerUnavailable
from serve_app.events.brokers.kafka_client import FAILURES, connection
from serve_app.events.brokers.kafka_producer import ensure_topics
from serve_app.events.brokers.offsets import ContiguousOffsets, Partition
from serve_app.events.message import Message
from serve_app.events.settings import BrokerSettings

log = logging.getLogger(__name__)

PROBE_AFTER_S = 3.0
"""aiokafka reconnects in silence for ever: when nothing came for so long, the broker is asked for its topics."""

JOIN_SLACK_MS = 5_000  # a new group's first members are waited for: group.initial.rebalance.delay.ms is 3 s

_NOWHERE = TopicPartition("", 0)


class KafkaSource:
    def __init__(self, settings: BrokerSettings, topics: Sequence[str]) -> None:
        self.keep_every_s = settings.kafka.max_poll_interval_s / 4
        self._settings = settings
        self._topics = tuple(topics)
        self._consumer: AIOKafkaConsumer | None = None
        self._offsets = ContiguousOffsets()
        self._held: dict[tuple[str, int, int], Message] = {}  # place -> the message as it was taken here
        self._ready: deque[Message] = deque()  # polled, but not yet taken
        self._polling: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[object] | None = None
        self._committing = asyncio.Lock()
        self._heard = 0.0  # monotonic: the broker's last sign of life

    async def start(self) -> None:
        await self.close()
        settings = self._settings
        if settings.create_topics:
            await ensure_topics(settings, self._topics)
        session_ms = int(settings.kafka.session_timeout_s * 1000)
        options = connection(settings)
        # JoinGroup is answered when all members have joined again, or their session timed out
        options["request_timeout_ms"] = max(options["request_timeout_ms"], session_ms + JOIN_SLACK_MS)
        consumer = AIOKafkaConsumer(
            **options,
            group_id=settings.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=max(100, session_ms // 5),
            max_poll_interval_ms=int(settings.kafka.max_poll_interval_s * 1000),
            fetch_max_bytes=settings.kafka.fetch_bytes,
            max_partition_fetch_bytes=settings.kafka.partition_fetch_bytes,
        )
        try:
            await asyncio.wait_for(consumer.start(), settings.connect_timeout_s)
            consumer.subscribe(self._topics, listener=_Rebalances(self))  # joins the group beside us
        except FAILURES as error:
            log.warning("kafka: no connection: %r", error)
            await _stopped(consumer)
            raise BrokerUnavailable from error
        except BaseException:
            await _stopped(consumer)
            raise
        self._consumer = consumer
        self._heard = time.monotonic()

    async def take(self, limit: int, wait_s: float) -> list[Message]:
        consumer = self._running()
        if not self._ready:
            await self._poll(consumer, limit, wait_s)
        if not self._ready:
            await self._probe(consumer)
        found = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
        for message in found:
            self._held[message.place] = message
        return found

    async def _poll(self, consumer: AIOKafkaConsumer, limit: int, wait_s: float) -> None:
        """A poll is never cancelled: it may have moved the position already, and would leave aiokafka's account of
        polls open. One that outlives its wait (a rebalance) serves the next take."""
        if self._polling is None:
            self._polling = asyncio.create_task(self._fetch(consumer, limit, wait_s))
        await asyncio.wait({self._polling}, timeout=wait_s)
        if self._polling is not None and self._polling.done():
            polled, self._polling = self._polling, None
            try:
                await polled
            except FAILURES as error:
                log.warning("kafka: %r", error)
                raise BrokerUnavailable from error

    async def _fetch(self, consumer: AIOKafkaConsumer, limit: int, wait_s: float) -> None:
        records = await consumer.getmany(timeout_ms=int(wait_s * 1000), max_records=limit)
        for found in records.values():  # no wait between the position's move and this
            for record in found:
                self._offsets.taken((record.topic, record.partition), record.offset)
                self._ready.append(_message(record))
        if records:
            self._heard = time.monotonic()

    async def _probe(self, consumer: AIOKafkaConsumer) -> None:
        if time.monotonic() - self._heard < PROBE_AFTER_S:
            return
        try:
            await asyncio.wait_for(consumer.topics(), self._settings.request_timeout_s)
        except FAILURES as error:
            raise BrokerUnavailable from error
        self._heard = time.monotonic()
        await self._commit()  # what an outage kept back

    async def done(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._offsets.done((message.topic, message.partition), message.offset)
            self._held.pop(message.place, None)
        await self._commit()

    async def _commit(self) -> None:
        """Calls that come while a commit is on its way wait for it and find little or nothing left to do."""
        async with self._committing:
            offsets = self._offsets.committable()
            if not offsets or self._consumer is None:
                return
            wanted = {TopicPartition(*partition): offset for partition, offset in offsets.items()}
            try:
                await asyncio.wait_for(self._consumer.commit(wanted), self._settings.request_timeout_s)
            except (CommitFailedError, IllegalStateError):
                log.info("kafka: the group was rebalanced before a commit; those messages come again")
            except FAILURES as error:
                log.warning("kafka: offsets not committed, tried again with the next: %r", error)
            else:
                self._offsets.committed(offsets)
                self._heard = time.monotonic()

    async def release(self, messages: Sequence[Message]) -> None:
        """They come again once this member has left."""
        for message in messages:
            self._held.pop(message.place, None)

    async def keep(self, messages: Sequence[Message]) -> None:
        if self._consumer is None or self._polling is not None:
            return
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._nothing(self._consumer))
        await asyncio.wait({self._keeping}, timeout=0.1)

    async def _nothing(self, consumer: AIOKafkaConsumer) -> None:
        with contextlib.suppress(*FAILURES):
            await consumer.getmany(_NOWHERE, timeout_ms=0)

    def lost(self, messages: Iterable[Message]) -> list[Message]:
        return [message for message in messages if self._held.get(message.place) is not message]

    async def lag(self) -> dict[str, int] | None:
        consumer = self._consumer
        if consumer is None or not (ours := consumer.assignment()):
            return None
        behind = dict.fromkeys(self._topics, 0)
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                ends = await consumer.end_offsets(ours)
                for tp in ours:
                    reached = self._offsets.next((tp.topic, tp.partition))
                    behind[tp.topic] += ends[tp] - (await consumer.position(tp) if reached is None else reached)
        except FAILURES:
            return None
        return behind

    async def close(self) -> None:
        await self._commit()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await _stopped(consumer, self._settings.request_timeout_s)
        for task in (self._polling, self._keeping):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        self._polling = self._keeping = None
        self._dropped(None)

    async def revoked(self, partitions: Iterable[Partition]) -> None:
        await self._commit()
        self._dropped(set(partitions))

    def _dropped(self, partitions: set[Partition] | None) -> None:
        """None: all of them."""
        if partitions is None:
            self._offsets.clear()
            self._held.clear()
            self._ready.clear()
            return
        self._offsets.drop(partitions)
        self._held = {place: message for place, message in self._held.items() if place[:2] not in partitions}
        self._ready = deque(m for m in self._ready if (m.topic, m.partition) not in partitions)

    def _running(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise BrokerUnavailable("The message broker was not reached yet.")
        return self._consumer


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._source.revoked((tp.topic, tp.partition) for tp in revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        log.info("kafka: partitions assigned: %s", sorted(f"{tp.topic}/{tp.partition}" for tp in assigned))


def _message(record: ConsumerRecord) -> Message:
    timed = record.timestamp is not None and record.timestamp >= 0
    return Message(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        value=record.value or b"",
        timestamp=datetime.fromtimestamp(record.timestamp / 1000, UTC) if timed else datetime.now(UTC),
        key=record.key,
        headers={name: value or b"" for name, value in record.headers},
    )


async def _stopped(consumer: AIOKafkaConsumer, wait_s: float = 5.0) -> None:
    try:
        await asyncio.wait_for(consumer.stop(), wait_s)
    except FAILURES as error:
        log.info("kafka: left without a farewell: %r", error)
