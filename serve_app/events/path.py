"""The event path of one process, put together: consumer in, outbox publisher and webhooks out, and the housekeeping.

EventPath       all of it: the `events` node of a Serve application, or `parakh consume`
OutgoingEvents  the way out alone: it runs beside the HTTP server too, so that events leave where nobody consumes
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from serve_app.assembly import Parts
from serve_app.config import AppConfig
from serve_app.events.brokers import BrokerUnavailable, ensure_topics, open_producer, open_source
from serve_app.events.consumer import Consumer
from serve_app.events.duty import Duty
from serve_app.events.handling import EventHandler
from serve_app.events.incoming import EventReader
from serve_app.events.publisher import OutboxPublisher
from serve_app.events.settings import BrokerSettings
from serve_app.events.webhooks import Webhooks
from serve_app.housekeeping import House, keep_house
from serve_app.media_store import MediaStore
from serve_app.metrics import Metrics
from serve_app.nodes import NodeHandles
from serve_app.promise import Promise
from serve_app.records import Records, outbox
from serve_app.records.values import Concluded, Conclusion, JudgedPost

log = logging.getLogger(__name__)
_OUTGOING = (outbox.VERDICTS, outbox.ERASURES, outbox.REFERENCES, outbox.CLIPS, outbox.STREAMS, outbox.MILESTONES)
_TOPICS_AGAIN_S = 5.0
OUTGOING_S = 10.0
"""For what has been stored to leave, once nothing more comes."""
_LEAVE_S = 2.0  # for brokers and the database to be told, before and after


class OutgoingEvents:
    """Any number of processes may run it; a lease in the database lets one publish at a time."""

    def __init__(
        self,
        config: AppConfig,
        records: Records,
        media_store: MediaStore,
        metrics: Metrics | None = None,
    ) -> None:
        broker = config.events.broker
        self._broker = broker
        self._webhooks = Webhooks(
            records.webhooks,
            config.events.webhooks,
            Duty(records.duties, "webhooks"),
            observer=None if metrics is None else metrics.webhooks,
        )
        self._publisher = OutboxPublisher(
            records.outbox,
            None if broker.kind == "off" else open_producer(broker),
            Duty(records.duties, "outbox"),
            topics=broker.topics,
            deliveries=self._webhooks,
            values=media_store,
            observer=None if metrics is None else metrics.publisher,
        )
        self._creating: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._creating = asyncio.create_task(_create_topics(self._broker), name="topics")
        self._publisher.start()
        self._webhooks.start()

    def wake(self) -> None:
        self._publisher.wake()

    async def stop(self, within_s: float = OUTGOING_S) -> None:
        """Both ways out end together: most of the time is for what is on its way, the rest to take leave."""
        if self._creating is not None:
            self._creating.cancel()
        ways = [asyncio.create_task(way.stop(drain_s=0.7 * within_s)) for way in (self._publisher, self._webhooks)]
        await asyncio.wait(ways, timeout=within_s)
        for way in ways:
            if not way.done():
                log.warning("a way out did not end within %.0f s; what is left is for the next process", within_s)
                way.cancel()
            elif error := way.exception():
                log.error("a way out ended badly", exc_info=error)


class EventPath:
    """Raises ValueError where the broker is off: there is nothing to consume."""

    def __init__(
        self,
        config: AppConfig,
        nodes: NodeHandles,
        parts: Parts,
        *,
        metrics: Metrics | None = None,
        indexed: bool = True,
    ) -> None:
        events = config.events
        topics = consumed_topics(config)
        self._records = parts.records
        self._outgoing = OutgoingEvents(config, parts.records, parts.media_store, metrics)
        handler = EventHandler(
            parts.pipeline, parts.clips, parts.media_store, nodes.fetch, Promise(config.promise), indexed=indexed
        )
        self._consumer = Consumer(
            open_source(events.broker, topics),
            EventReader(events.broker.topics),
            handler,
            _Storing(parts.records, parts.media_store, self._outgoing),
            events.consumer,
            None if metrics is None else metrics.consumer,
        )
        self._house = House(
            records=parts.records,
            media_store=parts.media_store,
            retention=config.retention,
            media_retention_s=config.http.media_retention_s,
            quarantine_window_s=config.similarity.indexing.quarantine_window_s,
            request_timeout_s=max(config.http.request_timeout_s, events.consumer.attempt_s),
        )
        self._keeping: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._drain_s = events.consumer.drain_s
        left_s = events.replicas.graceful_shutdown_timeout_s - self._drain_s - 2 * _LEAVE_S
        self._outgoing_s = min(OUTGOING_S, max(1.0, left_s))

    @property
    def in_flight(self) -> int:
        return self._consumer.in_flight

    @property
    def failed(self) -> bool:
        """The consumer ended by itself: this process is of no use any more."""
        return self._running is not None and self._running.done()

    async def start(self) -> None:
        """Raises RecordsUnavailable."""
        await self._records.start()
        self._outgoing.start()
        self._keeping = asyncio.create_task(keep_house(self._house), name="housekeeping")
        self._running = asyncio.create_task(self._consumer.run(), name="consumer")

    async def wait(self) -> None:
        """Until the consumer ends. Raises what ended it."""
        assert self._running is not None
        await asyncio.wait({self._running})
        if not self._running.cancelled():  # by `stop`, where it took too long
            self._running.result()

    async def stop(self) -> None:
        """Drains: what is in work is finished within `drain_s` and published; the rest goes back to the broker.

        Ends before Serve loses patience: a broker that does not answer is taken leave of beside the rest.
        """
        self._consumer.stop()
        running = self._running
        if running is not None:
            await asyncio.wait({running}, timeout=self._drain_s + _LEAVE_S / 2)
        await self._outgoing.stop(self._outgoing_s)
        if running is not None:
            await asyncio.wait({running}, timeout=_LEAVE_S / 2)
            if not running.done():
                running.cancel()
                await asyncio.wait({running}, timeout=_LEAVE_S / 2)
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping}, timeout=_LEAVE_S / 2)
        await self._records.close()


class _Storing:
    """The store of events. Bytes too large for a row go to the media store; every commit wakes the publisher."""

    def __init__(self, records: Records, media_store: MediaStore, outgoing: OutgoingEvents) -> None:
        self._events = records.events
        self._media_store = media_store
        self._outgoing = outgoing
        self.known = records.events.known

    async def conclude(self, conclusions: Sequence[Conclusion]) -> list[Concluded]:
        outcomes = await self._events.conclude(conclusions, self._media_store.put)
        self._outgoing.wake()
        for conclusion, outcome in zip(conclusions, outcomes, strict=True):
            if outcome == "done" and isinstance(conclusion.work, JudgedPost):
                await self._keep_media(conclusion.work)
        return outcomes

    async def _keep_media(self, judged: JudgedPost) -> None:
        """A file that nobody referred to may have been swept between its put and the commit; now it is referred to."""
        digest = judged.submission.media_sha256
        if digest is not None and judged.media is not None and not await self._media_store.exists(digest):
            await self._media_store.put(judged.media)


def consumed_topics(config: AppConfig) -> list[str]:
    """The broker's names of the topics that are read: clips only where something can judge them."""
    topics = config.events.broker.topics
    return [name for name in topics.incoming if name != topics.clips or config.streams.enabled]


async def _create_topics(broker: BrokerSettings) -> None:
    """Tried until it is done: the broker may come later than this process."""
    if broker.kind == "off" or not broker.create_topics:
        return
    names = [*broker.topics.incoming, broker.topics.dead_letters, *map(broker.topics.outgoing, _OUTGOING)]
    while True:
        try:
            await ensure_topics(broker, list(dict.fromkeys(names)))
            return
        except BrokerUnavailable as error:
            log.warning("topics are not created yet: %s", error)
            await asyncio.sleep(_TOPICS_AGAIN_S)
