"""Outbox to broker and webhooks: read oldest first, publish, mark; one process at a time holds the duty.

    pending -> records -> producer -> mark_published, with the webhook deliveries that must follow, in one transaction

What is published and not yet marked when the process dies is published again under the same id. A broker that is away
stops the pass, and nothing overtakes. An event that the broker will never take (too large) waits ever longer while
the others go on; a topic that does not exist holds back its own events only, all until the same moment, so that they
keep their order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from deployments.runtime.errors import NodeUnavailable
from serve_app.events.brokers.base import BrokerUnavailable, Producer, TopicMissing
from serve_app.events.duty import Duty
from serve_app.events.outgoing import topic_of
from serve_app.events.sending import Sender, Sent, StoredValues
from serve_app.events.settings import TopicNames
from serve_app.records.values import OutboxEvent

log = logging.getLogger(__name__)
PAGE = 200
POLL_S = 1.0  # another process's events are found this late; one's own wake this one up
GAUGE_EVERY_S = 5.0
MAX_BACKOFF_S = 30.0
POISON_FIRST_S, POISON_MAX_S = 60.0, 6 * 3600.0


class Outbox(Protocol):
    """The part of the OutboxStore that this needs."""

    async def pending(self, limit: int) -> list[OutboxEvent]: ...

    async def mark_published(self, ids: Sequence[int], deliveries: Sequence[tuple[str, str]]) -> None: ...

    async def failed(self, ids: Sequence[int], error: str, next_attempt_at: datetime) -> None: ...

    async def oldest_unpublished(self) -> datetime | None: ...


class Deliveries(Protocol):
    """Who is told by webhook."""

    def endpoints_of(self, type_: str) -> Sequence[str]: ...

    def wake(self) -> None: ...


class PublisherObserver(Protocol):
    """Counts by event type; never with an id."""

    def published(self, type_: str) -> None: ...

    def publish_failed(self, type_: str, code: str) -> None: ...

    def oldest_unpublished(self, age_s: float) -> None:
        """Every few seconds, of the process that has the duty."""
        ...


class Unobserved:
    def published(self, type_: str) -> None: ...

    def publish_failed(self, type_: str, code: str) -> None: ...

    def oldest_unpublished(self, age_s: float) -> None: ...


class NoDeliveries:
    def endpoints_of(self, type_: str) -> Sequence[str]:
        return ()

    def wake(self) -> None: ...


class OutboxPublisher:
    """`producer` None: there is no broker, and only webhooks are fed."""

    def __init__(
        self,
        outbox: Outbox,
        producer: Producer | None,
        duty: Duty,
        *,
        topics: TopicNames = TopicNames(),  # noqa: B008
        deliveries: Deliveries | None = None,
        values: StoredValues | None = None,
        observer: PublisherObserver | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self._outbox = outbox
        self._sender = Sender(producer, topics, values)
        self._duty = duty
        self._topics = topics
        self._deliveries = deliveries or NoDeliveries()
        self._observer = observer or Unobserved()
        self._poll_s = poll_s
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._gauged_at: float | None = None
        self._missing: dict[str, tuple[datetime, int]] = {}  # topic -> (not asked before, times missed)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="outbox-publisher")

    def wake(self) -> None:
        """Something was committed: look now."""
        self._wake.set()

    async def stop(self, drain_s: float = 10.0) -> None:
        """Publishes what is there, for at most `drain_s`; the rest is for the next process."""
        self._stop.set()
        self._wake.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._task, drain_s)
        await self._duty.give_up()
        await self._sender.close()

    async def _run(self) -> None:
        keeping = asyncio.create_task(self._duty.keep(), name="outbox-duty")
        try:
            await self._passes()
        finally:
            keeping.cancel()

    async def _passes(self) -> None:
        failures = 0
        while True:
            self._wake.clear()
            try:
                more = await self._duty.hold() and await self.publish_once()
                failures = 0
            except NodeUnavailable as error:  # the broker or the database
                failures += 1
                log.warning("outgoing events wait: %s", error)
            except Exception:  # the process's edge: whatever it was, events must go on leaving
                failures += 1
                log.exception("publishing outgoing events failed")
            if self._stop.is_set() and (failures or not more):
                return
            if failures:  # nothing wakes this but the end
                await _first(self._stop, backoff_s(failures))
            elif not more:
                await _first(self._wake, self._poll_s)

    async def publish_once(self) -> bool:
        """One page. True: look again at once. Raises BrokerUnavailable after marking what did arrive, and
        RecordsUnavailable."""
        await self._gauge()
        page = await self._outbox.pending(PAGE)
        sent = await self._sender.send(await self._not_held_back(page)) if page else []
        published = [event for event, error in sent if error is None]
        if published:
            await self._mark(published)
        away = await self._failed(sent)
        if away is not None:
            raise away
        return len(page) == PAGE or bool(published)

    async def _mark(self, published: Sequence[OutboxEvent]) -> None:
        told = [(event.event_id, name) for event in published for name in self._deliveries.endpoints_of(event.type)]
        await self._outbox.mark_published([event.id for event in published], told)
        for event in published:
            self._missing.pop(topic_of(event, self._topics), None)
            self._observer.published(event.type)
        if told:
            self._deliveries.wake()

    async def _failed(self, sent: Sequence[Sent]) -> BrokerUnavailable | None:
        """Writes down what will not be tried in the next pass. Returns the error of a broker that is away."""
        away: BrokerUnavailable | None = None
        missing: dict[str, list[OutboxEvent]] = {}
        for event, error in sent:
            if error is None:
                continue
            self._observer.publish_failed(event.type, error.code)
            if isinstance(error, TopicMissing):
                missing.setdefault(topic_of(event, self._topics), []).append(event)
            elif isinstance(error, BrokerUnavailable):
                away = error
            else:
                wait_s = min(POISON_FIRST_S * 2 ** min(event.attempts, 20), POISON_MAX_S)
                log.error("the %s event %s cannot leave: %s", event.type, event.event_id, error)
                await self._outbox.failed([event.id], str(error), datetime.now(UTC) + timedelta(seconds=wait_s))
        for topic, events in missing.items():
            times = self._missing.get(topic, (None, 0))[1] + 1
            until = datetime.now(UTC) + timedelta(seconds=backoff_s(times))
            self._missing[topic] = until, times
            log.error("%d outgoing events wait: the broker has no topic %s", len(events), topic)
            await self._hold_back(topic, events)
        return away

    async def _not_held_back(self, page: Sequence[OutboxEvent]) -> list[OutboxEvent]:
        """Newer events of a topic that is missing wait for the same moment as the older ones: their order stays."""
        free: list[OutboxEvent] = []
        held: dict[str, list[OutboxEvent]] = {}
        now = datetime.now(UTC)
        for event in page:
            topic = topic_of(event, self._topics)
            until = self._missing.get(topic, (now, 0))[0]
            (held.setdefault(topic, []) if until > now else free).append(event)
        for topic, events in held.items():
            await self._hold_back(topic, events)
        return free

    async def _hold_back(self, topic: str, events: Sequence[OutboxEvent]) -> None:
        reason = f"The broker has no topic {topic}."
        await self._outbox.failed([event.id for event in events], reason, self._missing[topic][0])

    async def _gauge(self) -> None:
        now = time.monotonic()
        if self._gauged_at is None or now - self._gauged_at >= GAUGE_EVERY_S:
            self._gauged_at = now
            oldest = await self._outbox.oldest_unpublished()
            age_s = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
            self._observer.oldest_unpublished(max(0.0, age_s))


def backoff_s(failures: int) -> float:
    """1, 2, 4 ... 30 s, each between half and the whole of it: many processes do not come back together."""
    return min(2.0 ** min(failures - 1, 10), MAX_BACKOFF_S) * random.uniform(0.5, 1.0)  # noqa: S311


async def _first(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
