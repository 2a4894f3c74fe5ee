"""Takes messages from a broker, has them worked off side by side, stores the outcomes, then lets the broker forget.

    take (<= max_batch) -> read -> known? -> work, max_in_flight at once -> conclude (<= max_batch, one transaction)
                                                                              -> done (offset or ack)

Outcomes of one key (a stream, a post) are stored in the order in which their messages came. The writer takes what has
finished while the transaction before was running: alone when idle, in full batches under load. Nothing is said to be
done before it is stored, so what a crash interrupts comes again, and storing it again changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from deployments.runtime.errors import (
    DeadlineExceeded,
    FetchFailed,
    ModelError,
    NodeUnavailable,
    Overloaded,
    ParakhError,
)
from serve_app.events.brokers.base import BrokerUnavailable, Source
from serve_app.events.consumer_settings import ConsumerSettings
from serve_app.events.handling import Work
from serve_app.events.incoming import ClipRecorded, Incoming, PostCreated, PostViewed
from serve_app.events.message import Message
from serve_app.records.values import Concluded, Conclusion, EventId, JudgedClip, JudgedPost, Refusal

log = logging.getLogger(__name__)
_INFRASTRUCTURE = (NodeUnavailable, Overloaded, ModelError)  # no fault of the message: it waits as long as it takes
_MAY_PASS = (FetchFailed, DeadlineExceeded)


class Reader(Protocol):
    async def read(self, message: Message) -> Incoming: ...


class Handler(Protocol):
    async def work(self, event: Incoming, deadline_s: float) -> Work: ...


class Store(Protocol):
    async def known(self, events: Sequence[EventId]) -> set[EventId]: ...

    async def conclude(self, conclusions: Sequence[Conclusion]) -> list[Concluded]: ...


class ConsumerObserver(Protocol):
    """Told of everything worth a number."""

    def concluded(self, kind: str, outcome: str, age_s: float | None) -> None:
        """`kind`: post, clip, views or refusal. `age_s`: from the creation of the post or clip to its verdict."""

    def retried(self, code: str) -> None: ...

    def in_flight(self, messages: int, oldest_s: float | None) -> None:
        """`oldest_s`: age of the oldest post or clip in work."""


class NoObserver:
    def concluded(self, kind: str, outcome: str, age_s: float | None) -> None:
        pass

    def retried(self, code: str) -> None:
        pass

    def in_flight(self, messages: int, oldest_s: float | None) -> None:
        pass


@dataclass(eq=False)
class _Item:
    """One message on its way. `work` None while it is being worked off; `known`: stored before."""

    message: Message
    event: Incoming
    key: tuple[str, str] | None
    created_at: datetime | None
    known: bool = False
    work: Work | None = None
    task: asyncio.Task[None] | None = None
    writing: bool = False

    @property
    def finished(self) -> bool:
        return self.known or self.work is not None


class Consumer:
    def __init__(
        self,
        source: Source,
        reader: Reader,
        handler: Handler,
        store: Store,
        settings: ConsumerSettings,
        observer: ConsumerObserver | None = None,
    ) -> None:
        self._source = source
        self._reader = reader
        self._handler = handler
        self._store = store
        self._settings = settings
        self._observer = observer or NoObserver()
        self._items: dict[_Item, None] = {}  # in the order in which they came
        self._stored: list[Message] = []  # what the broker may forget
        self._news = asyncio.Event()  # something finished or was stored
        self._ready = asyncio.Event()  # something finished
        self._stopping = False

    @property
    def in_flight(self) -> int:
        return len(self._items)

    def stop(self) -> None:
        """Take no more, finish what is in work within `drain_s`, then let `run` return."""
        self._stopping = True
        self._news.set()

    async def run(self) -> None:
        """Until `stop`, or cancelled: then what is in work goes back unfinished."""
        writer = asyncio.create_task(self._write(), name="event writer")
        keeper = asyncio.create_task(self._keep(), name="event keeper")
        try:
            await self._start()
            while not self._stopping:
                await self._turn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_s):
                    await self._drain()
        finally:
            await self._end(writer, keeper)

    async def _start(self) -> None:
        pause_s = self._settings.retry_base_s
        while not self._stopping:
            try:
                await self._source.start()
                return
            except BrokerUnavailable as error:
                log.warning("the broker cannot be reached: %s", error)
                await asyncio.sleep(_jittered(pause_s))
                pause_s = min(2 * pause_s, self._settings.retry_max_s)

    async def _turn(self) -> None:
        await self._tell_done()
        self._drop_lost()
        free = self._settings.max_in_flight - len(self._items)
        if free <= 0:
            await self._wait_for_news(self._settings.wait_s)
            return
        wait_s = min(0.05, self._settings.wait_s) if self._items else self._settings.wait_s
        try:
            messages = await self._source.take(min(self._settings.max_batch, free), wait_s)
        except BrokerUnavailable as error:
            log.warning("the broker does not answer: %s", error)
            await self._wait_for_news(_jittered(self._settings.retry_base_s))
            return
        if messages:
            await self._begin(messages)

    async def _begin(self, messages: Sequence[Message]) -> None:
        events = await asyncio.gather(*(self._reader.read(message) for message in messages))
        named = [event.event for event in events if event.event is not None]
        known = await self._known(named)
        for message, event in zip(messages, events, strict=True):
            item = _Item(message, event, _key(event), _created_at(event), known=event.event in known)
            self._items[item] = None
            if item.known:
                self._finished()
            else:
                item.task = asyncio.create_task(self._work(item))
        self._observe()

    async def _known(self, events: Sequence[EventId]) -> set[EventId]:
        """Without an answer none is known: storing finds out as well."""
        try:
            return await self._store.known(events) if events else set()
        except NodeUnavailable:
            return set()

    async def _work(self, item: _Item) -> None:
        attempt = 0
        while item.work is None:
            attempt += 1
            try:
                item.work = await self._handler.work(item.event, self._settings.attempt_s)
            except _INFRASTRUCTURE as error:
                await self._pause(attempt, error)
            except ParakhError as error:
                if attempt >= self._settings.max_attempts or not _may_pass(error):
                    item.work = Refusal(error.code, str(error))
                else:
                    await self._pause(attempt, error)
            except Exception:  # the edge of a message: one that breaks the code must not end the consumer
                log.exception("%s/%d@%d failed", *item.message.place)
                if attempt >= self._settings.max_attempts:
                    item.work = Refusal(ParakhError.code, "Every attempt at the event failed inside the server.")
                else:
                    await self._pause(attempt, ParakhError())
        self._finished()

    async def _pause(self, attempt: int, error: ParakhError) -> None:
        self._observer.retried(error.code)
        pause_s = min(self._settings.retry_max_s, self._settings.retry_base_s * 2 ** min(attempt - 1, 16))
        asked_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
        await asyncio.sleep(max(asked_s, _jittered(pause_s)))

    async def _write(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            while batch := self._storable():
                await self._store_batch(batch)

    def _storable(self) -> list[_Item]:
        """Finished ones, in order; none that an earlier one of its key must precede."""
        batch: list[_Item] = []
        blocked: set[tuple[str, str]] = set()
        for item in self._items:
            if not item.finished:
                if item.key is not None:
                    blocked.add(item.key)
            elif not item.writing and item.key not in blocked:
                batch.append(item)
                if len(batch) == self._settings.max_batch:
                    break
        return batch

    async def _store_batch(self, batch: Sequence[_Item]) -> None:
        for item in batch:
            item.writing = True
        fresh = [item for item in batch if not item.known]
        outcomes = await self._concluded([_conclusion(item) for item in fresh]) if fresh else []
        for item, outcome in zip(fresh, outcomes, strict=True):
            self._observer.concluded(_kind(item.work), outcome, _age_s(item))
        for item in batch:
            if item.known:
                self._observer.concluded(_kind_of(item.event), "duplicate", None)
            self._items.pop(item, None)
            self._stored.append(item.message)
        self._news.set()
        self._observe()

    async def _concluded(self, conclusions: Sequence[Conclusion]) -> list[Concluded]:
        """In one transaction; where that breaks the code, each alone, and the culprit becomes a dead letter."""
        try:
            return await self._stored_when_possible(conclusions)
        except Exception:  # the edge of a batch: one message that breaks the code must not stop the consumer
            log.exception("%d outcomes cannot be stored together", len(conclusions))
        outcomes: list[Concluded] = []
        for conclusion in conclusions:
            try:
                outcomes += await self._stored_when_possible([conclusion])
            except Exception:
                log.exception("%s/%d@%d cannot be stored", *conclusion.message.place)
                refusal = Refusal(ParakhError.code, "Its outcome could not be stored: the server failed inside.")
                outcomes += await self._stored_when_possible([replace(conclusion, work=refusal)])
        return outcomes

    async def _stored_when_possible(self, conclusions: Sequence[Conclusion]) -> list[Concluded]:
        """Tried until the database takes it: meanwhile the window fills up and nothing more is taken."""
        pause_s = self._settings.retry_base_s
        while True:
            try:
                return await self._store.conclude(conclusions)
            except NodeUnavailable as error:
                self._observer.retried(error.code)
            await asyncio.sleep(_jittered(pause_s))
            pause_s = min(2 * pause_s, self._settings.retry_max_s)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._source.keep_every_s)
            try:
                await self._source.keep([item.message for item in self._items])
            except Exception:  # the edge of the task: without it the broker gives the messages to others
                log.exception("the broker could not be told that messages are in work")

    async def _tell_done(self) -> None:
        if self._stored:
            stored, self._stored = self._stored, []
            await self._source.done(stored)

    def _drop_lost(self) -> None:
        """Messages that went to another member of the group and are still in work here are its business now."""
        waiting = [item for item in self._items if not item.writing]
        lost = {id(message) for message in self._source.lost([item.message for item in waiting])}
        for item in waiting:
            if id(item.message) in lost:
                del self._items[item]
                if item.task is not None:
                    item.task.cancel()

    async def _drain(self) -> None:
        while self._items:
            await self._tell_done()
            await self._wait_for_news(1.0)

    async def _end(self, writer: asyncio.Task[None], keeper: asyncio.Task[None]) -> None:
        tasks = [item.task for item in self._items if item.task is not None]
        for task in (*tasks, keeper, writer):
            task.cancel()
        await asyncio.gather(*tasks, keeper, writer, return_exceptions=True)
        await self._tell_done()
        await self._source.release([item.message for item in self._items])
        self._items.clear()
        await self._source.close()

    async def _wait_for_news(self, timeout_s: float) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()

    def _finished(self) -> None:
        self._ready.set()
        self._news.set()

    def _observe(self) -> None:
        now = datetime.now(UTC)
        ages = [(now - item.created_at).total_seconds() for item in self._items if item.created_at]
        self._observer.in_flight(len(self._items), max(ages, default=None))


def _may_pass(error: ParakhError) -> bool:
    return isinstance(error, _MAY_PASS) or type(error) is ParakhError


def _conclusion(item: _Item) -> Conclusion:
    assert item.work is not None
    return Conclusion(item.message, item.event.event, item.work)


def _key(event: Incoming) -> tuple[str, str] | None:
    match event:
        case PostCreated():
            return "post", event.post.post_id
        case ClipRecorded():
            return "stream", event.clip.stream_id
        case PostViewed():
            return "views", event.count.post_id
        case _:
            return None


def _created_at(event: Incoming) -> datetime | None:
    match event:
        case PostCreated():
            return event.post.created_at
        case ClipRecorded():
            return event.clip.created_at
        case _:
            return None


def _kind_of(event: Incoming) -> str:
    match event:
        case PostCreated():
            return "post"
        case ClipRecorded():
            return "clip"
        case PostViewed():
            return "views"
        case _:
            return "refusal"


def _kind(work: Work | None) -> str:
    match work:
        case JudgedPost():
            return "post"
        case JudgedClip():
            return "clip"
        case Refusal():
            return "refusal"
        case _:
            return "views"


def _age_s(item: _Item) -> float | None:
    match item.work:
        case JudgedPost():
            return item.work.verdict.age_s
        case JudgedClip():
            return item.work.result.age_s
        case _:
            return None


def _jittered(pause_s: float) -> float:
    return pause_s * random.uniform(0.5, 1.0)  # noqa: S311
