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
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from serve_app.events.attempts import Attempts, Handler, Store, jittered
from serve_app.events.brokers.base import BrokerUnavailable, Source
from serve_app.events.consumer_settings import ConsumerSettings
from serve_app.events.incoming import Incoming
from serve_app.events.message import Message
from serve_app.events.observer import ConsumerObserver, NoObserver
from serve_app.events.window import Item, Window, item_of

log = logging.getLogger(__name__)
START_ANEW_AFTER_S = 60.0
"""A source that gave nothing but errors for so long is started anew: clients may end for good without saying so."""


class WorkLost(Exception):
    """A task of the consumer ended without its work: only a new consumer, to which it all comes again, can help."""


class Reader(Protocol):
    async def read(self, message: Message) -> Incoming: ...


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
        self._settings = settings
        self._observer = observer or NoObserver()
        self._attempts = Attempts(handler, store, settings, self._observer)
        self._window = Window()
        self._ahead: deque[Message] = deque()  # taken together with others, for which there is no room yet
        self._largest = 1  # bytes of the largest message of the last look
        self._stored: list[Message] = []  # what the broker may forget
        self._news = asyncio.Event()  # something finished or was stored
        self._ready = asyncio.Event()  # something finished
        self._stopping = False
        self._silent_since: float | None = None  # monotonic: since when the source gives errors

    @property
    def in_flight(self) -> int:
        return len(self._window)

    def stop(self) -> None:
        """Take no more, finish what is in work within `drain_s`, then let `run` return."""
        self._stopping = True
        self._news.set()

    async def run(self) -> None:
        """Until `stop`, or cancelled: then what is in work goes back unfinished. Raises WorkLost."""
        writer = asyncio.create_task(self._write(), name="event writer")
        keeper = asyncio.create_task(self._keep(), name="event keeper")
        try:
            await self._start()
            while not self._stopping:
                self._check(writer)
                await self._turn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_s):
                    await self._drain(writer)
        finally:
            await self._end(writer, keeper)

    async def _start(self) -> None:
        pause_s = self._settings.retry_base_s
        while not self._stopping:
            try:
                await self._source.start()
                self._silent_since = None
                return
            except BrokerUnavailable as error:
                log.warning("the broker cannot be reached: %s", error)
                await asyncio.sleep(jittered(pause_s))
                pause_s = min(2 * pause_s, self._settings.retry_max_s)

    async def _turn(self) -> None:
        self._observe()
        await self._tell_done()
        self._drop_lost()
        if fitting := self._fitting():
            await self._begin(fitting)
            return
        free = self._free()
        if self._ahead or free <= 0:
            await self._wait_for_news(self._settings.wait_s)
            return
        wait_s = min(0.05, self._settings.wait_s) if self._window else self._settings.wait_s
        try:
            messages = await self._source.take(free, wait_s)
        except BrokerUnavailable as error:
            log.warning("the broker does not answer: %s", error)
            await self._wait_for_news(jittered(self._settings.retry_base_s))
            await self._start_anew_where_silent()
            return
        self._silent_since = None
        if messages:
            self._largest = max(1, *(len(message.value) for message in messages))
            self._ahead.extend(messages)
            await self._begin(self._fitting())

    def _free(self) -> int:
        """How many messages may be taken: how large they are shows only then, so the last ones are a measure."""
        room = (self._settings.max_in_flight_bytes - self._window.bytes) // self._largest
        by_bytes = room if self._window else max(1, room)
        return min(self._settings.max_batch, self._settings.max_in_flight - len(self._window), by_bytes)

    def _fitting(self) -> list[Message]:
        """The first of those ahead for which there is room. One that is larger than all room goes alone."""
        fitting: list[Message] = []
        total = self._window.bytes
        while self._ahead:
            total += len(self._ahead[0].value)
            if total > self._settings.max_in_flight_bytes and (self._window or fitting):
                break
            fitting.append(self._ahead.popleft())
        return fitting

    async def _start_anew_where_silent(self) -> None:
        now = time.monotonic()
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since >= START_ANEW_AFTER_S:
            log.warning("the broker has not answered for %.0f s: the connection is made anew", now - self._silent_since)
            await self._start()

    async def _begin(self, messages: Sequence[Message]) -> None:
        events = await asyncio.gather(*(self._reader.read(message) for message in messages))
        named = [event.event for event in events if event.event is not None]
        known = await self._attempts.known(named)
        for message, event in zip(messages, events, strict=True):
            item = item_of(message, event, known=event.event in known)
            self._window.add(item)
            if item.known:
                self._finished()
            else:
                item.task = asyncio.create_task(self._work(item, event))

    async def _work(self, item: Item, event: Incoming) -> None:
        item.work = await self._attempts.work(item.message, event)
        self._finished()

    async def _write(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            while batch := self._window.storable(self._settings.max_batch):
                await self._store_batch(batch)

    async def _store_batch(self, batch: Sequence[Item]) -> None:
        for item in batch:
            item.writing = True
        fresh = [item for item in batch if not item.known]
        outcomes = await self._attempts.conclude([item.conclusion() for item in fresh]) if fresh else []
        for item, outcome in zip(fresh, outcomes, strict=True):
            self._observer.concluded(item.kind, outcome, item.age_s)
        for item in batch:
            if item.known:
                self._observer.concluded(item.kind, "duplicate", None)
            self._window.remove(item)
            self._stored.append(item.message)
        self._news.set()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._source.keep_every_s)
            try:
                await self._source.keep(self._taken())
            except Exception:  # the edge of the task: without it the broker gives the messages to others
                log.exception("the broker could not be told that messages are in work")

    async def _tell_done(self) -> None:
        if self._stored:
            stored, self._stored = self._stored, []
            await self._source.done(stored)

    def _drop_lost(self) -> None:
        """Messages that went to another member of the group and are still in work here are its business now."""
        waiting = [item for item in self._window if not item.writing]
        lost = {id(message) for message in self._source.lost([item.message for item in waiting])}
        for message in self._source.lost(list(self._ahead)):
            self._ahead.remove(message)
        for item in waiting:
            if id(item.message) in lost:
                self._window.remove(item)
                if item.task is not None:
                    item.task.cancel()

    def _check(self, writer: asyncio.Task[None]) -> None:
        """Raises WorkLost, rather than stand still for ever."""
        if writer.done():
            raise WorkLost("nothing is stored any more") from writer.exception()
        for item in self._window:
            if item.task is not None and item.task.done() and item.work is None:
                topic, partition, offset = item.message.place
                raise WorkLost(f"{topic}/{partition}@{offset} ended without an outcome")

    async def _drain(self, writer: asyncio.Task[None]) -> None:
        while self._window:
            self._check(writer)
            await self._tell_done()
            await self._wait_for_news(1.0)

    async def _end(self, writer: asyncio.Task[None], keeper: asyncio.Task[None]) -> None:
        tasks = [item.task for item in self._window if item.task is not None]
        for task in (*tasks, keeper, writer):
            task.cancel()
        await asyncio.gather(*tasks, keeper, writer, return_exceptions=True)
        await self._tell_done()
        await self._source.release(self._taken())
        await self._source.close()

    def _taken(self) -> list[Message]:
        """From the broker, and not stored yet."""
        return [*(item.message for item in self._window), *self._ahead]

    async def _wait_for_news(self, timeout_s: float) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()

    def _finished(self) -> None:
        self._ready.set()
        self._news.set()

    def _observe(self) -> None:
        self._observer.in_flight(len(self._window), self._window.oldest_s())
