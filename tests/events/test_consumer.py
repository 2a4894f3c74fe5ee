"""The consumer over a broker in this process: nothing lost, nothing out of its order, nobody held up by a neighbour."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from deployments.runtime.errors import (
    DeadlineExceeded,
    FetchFailed,
    LanguageModelUnavailable,
    NodeUnavailable,
    UndecodableMedia,
)
from serve_app.events import consumer as consumer_module
from serve_app.events.brokers.base import BrokerUnavailable, OutRecord
from serve_app.events.brokers.fake import FakeBroker, FakeSource
from serve_app.events.consumer import Consumer, WorkLost
from serve_app.events.consumer_settings import ConsumerSettings
from serve_app.events.handling import Work
from serve_app.events.incoming import ClipRecorded, EventReader, Incoming, PostCreated, PostViewed, Refused
from serve_app.events.message import Message
from serve_app.records.values import Concluded, Conclusion, EventId, Refusal, ViewCount

TOPICS = ("parakh.posts", "parakh.clips", "parakh.views")
FAST = ConsumerSettings(wait_s=0.05, retry_base_s=0.01, retry_max_s=0.05, drain_s=2.0)
AT = datetime(2026, 11, 1, tzinfo=UTC)


def event(kind: str, number: int, data: dict[str, Any]) -> bytes:
    head = {"specversion": "1.0", "id": str(number), "source": "/test", "type": kind, "time": AT.isoformat()}
    return json.dumps(head | {"data": data}).encode()


def post(number: int) -> OutRecord:
    fields = {"post_id": f"p{number}", "author_id": "a", "content_type": "text", "caption": "x"}
    body = event("parakh.post.created", number, fields | {"created_at": AT.isoformat()})
    return OutRecord("parakh.posts", f"p{number}".encode(), body)


def clip(stream: str, number: int) -> OutRecord:
    fields = {"stream_id": stream, "start_s": 20.0 * number, "created_at": AT.isoformat(), "media_base64": "AAAA"}
    body = event("parakh.clip.recorded", hash((stream, number)) % 10**9, fields)
    return OutRecord("parakh.clips", stream.encode(), body)


def name_of(event: Incoming) -> str:
    match event:
        case PostCreated():
            return event.post.post_id
        case ClipRecorded():
            return f"{event.clip.stream_id}@{event.clip.start_s:g}"
        case PostViewed():
            return event.count.post_id
        case Refused():
            return event.refusal.code


class MemoryStore:
    """What a database does: one transaction at a time, the same event once."""

    def __init__(self) -> None:
        self.rows: dict[str, Work] = {}
        self.order: list[str] = []
        self.batches: list[int] = []
        self.down = False
        self.delay_s = 0.0
        self.breaks: set[str] = set()  # what the code cannot store
        self._events: set[EventId] = set()

    async def known(self, events: Sequence[EventId]) -> set[EventId]:
        if self.down:
            raise NodeUnavailable
        return self._events & set(events)

    async def conclude(self, conclusions: Sequence[Conclusion]) -> list[Concluded]:
        await asyncio.sleep(self.delay_s)
        if self.down:
            raise NodeUnavailable
        self.batches.append(len(conclusions))
        if any(isinstance(each.work, ViewCount) and each.work.post_id in self.breaks for each in conclusions):
            raise RuntimeError("a secret of the inside")
        return [self._one(conclusion) for conclusion in conclusions]

    def _one(self, conclusion: Conclusion) -> Concluded:
        name = conclusion.work.post_id if isinstance(conclusion.work, ViewCount) else str(conclusion.message.place)
        if conclusion.event in self._events:
            return "duplicate"
        if conclusion.event is not None:
            self._events.add(conclusion.event)
        self.rows[name] = conclusion.work
        self.order.append(name)
        return "dead" if isinstance(conclusion.work, Refusal) else "done"


class Handler:
    """Every event becomes a ViewCount that bears its name; `script` may do something before that."""

    def __init__(self, script: Callable[[str], Awaitable[None]] | None = None) -> None:
        self.script = script
        self.at_once = self.most_at_once = 0
        self.seen: list[str] = []

    async def work(self, event: Incoming, deadline_s: float) -> Work:
        name = name_of(event)
        self.seen.append(name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.script is not None:
                await self.script(name)
        finally:
            self.at_once -= 1
        return event.refusal if isinstance(event, Refused) else ViewCount(name, 1, AT)


@asynccontextmanager
async def consuming(broker: FakeBroker, handler: Handler, store: MemoryStore, settings: ConsumerSettings = FAST) -> Any:
    consumer = Consumer(broker.source(TOPICS), EventReader(), handler, store, settings)
    running = asyncio.create_task(consumer.run())
    try:
        yield consumer
    finally:
        consumer.stop()
        await asyncio.wait_for(running, 10)


async def until(true: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.005)


async def send(broker: FakeBroker, *records: OutRecord) -> None:
    errors = await broker.producer().publish(records)
    assert not any(errors)


def uncommitted(broker: FakeBroker) -> int:
    logs = [broker.messages(topic) for topic in TOPICS]
    committed = sum(broker.committed(topic, number) for topic in TOPICS for number in range(broker.partitions))
    return sum(map(len, logs)) - committed


async def test_every_event_is_stored_once_and_then_forgotten_by_the_broker() -> None:
    broker, store = FakeBroker(TOPICS), MemoryStore()
    await send(broker, *(post(n) for n in range(100)), *(clip("s", n) for n in range(20)))
    async with consuming(broker, Handler(), store):
        await until(lambda: len(store.rows) == 120 and uncommitted(broker) == 0)
    assert max(store.batches) <= FAST.max_batch


async def test_clips_of_a_stream_are_stored_in_order_whatever_order_they_finish_in() -> None:
    async def earlier_is_slower(name: str) -> None:
        await asyncio.sleep(0.1 / (1 + float(name.partition("@")[2])))

    broker, store = FakeBroker(TOPICS), MemoryStore()
    await send(broker, *(clip(stream, n) for n in range(10) for stream in ("a", "b")))
    async with consuming(broker, Handler(earlier_is_slower), store):
        await until(lambda: len(store.rows) == 20)
    for stream in ("a", "b"):
        assert [name for name in store.order if name[0] == stream] == [f"{stream}@{20 * n}" for n in range(10)]


async def test_a_slow_event_holds_up_no_other_and_its_offset_waits_for_it() -> None:
    go_on = asyncio.Event()

    async def first_waits(name: str) -> None:
        if name == "p0":
            await go_on.wait()

    broker, store = FakeBroker(TOPICS, partitions=1), MemoryStore()
    await send(broker, *(post(n) for n in range(30)))
    async with consuming(broker, Handler(first_waits), store):
        await until(lambda: len(store.rows) == 29)
        await asyncio.sleep(0.1)
        assert broker.committed("parakh.posts", 0) == 0
        go_on.set()
        await until(lambda: broker.committed("parakh.posts", 0) == 30)


async def test_no_more_than_the_window_is_in_work() -> None:
    settings = FAST.model_copy(update={"max_in_flight": 5})
    broker, store, handler = FakeBroker(TOPICS), MemoryStore(), Handler(lambda _: asyncio.sleep(0.005))
    await send(broker, *(post(n) for n in range(60)))
    async with consuming(broker, handler, store, settings):
        await until(lambda: len(store.rows) == 60)
    assert handler.most_at_once == 5


def big_clip(number: int, size: int) -> OutRecord:
    headers = {
        "ce_specversion": b"1.0",
        "ce_id": str(number).encode(),
        "ce_source": b"/test",
        "ce_type": b"parakh.clip.recorded",
        "ce_time": AT.isoformat().encode(),
        "ce_streamid": f"s{number}".encode(),
        "ce_starts": b"0",
        "content-type": b"audio/wav",
    }
    return OutRecord("parakh.clips", f"s{number}".encode(), bytes(size), headers)


async def test_no_more_bytes_than_the_window_takes_are_in_work() -> None:
    settings = FAST.model_copy(update={"max_in_flight_bytes": 3000})
    broker, store, handler = FakeBroker(TOPICS), MemoryStore(), Handler(lambda _: asyncio.sleep(0.01))
    await send(broker, *(big_clip(n, 1000) for n in range(20)), *(big_clip(n, 100) for n in range(20, 40)))
    async with consuming(broker, handler, store, settings) as consumer:
        assert await most_of(lambda: consumer._window.bytes, lambda: len(store.rows) == 40) <= 3000
        await until(lambda: uncommitted(broker) == 0)
    assert handler.most_at_once > 3  # small ones are bounded by their number


async def test_a_message_larger_than_the_whole_window_is_worked_off_alone() -> None:
    settings = FAST.model_copy(update={"max_in_flight_bytes": 3000})
    broker, store = FakeBroker(TOPICS, partitions=1), MemoryStore()

    async def alone(name: str) -> None:
        if name == "s2@0":
            assert handler.at_once == 1
        await asyncio.sleep(0.01)
        if name == "s2@0":
            assert handler.at_once == 1

    handler = Handler(alone)
    await send(broker, *(big_clip(n, 5000 if n == 2 else 100) for n in range(6)))
    async with consuming(broker, handler, store, settings):
        await until(lambda: len(store.rows) == 6 and uncommitted(broker) == 0)
    assert all(isinstance(work, ViewCount) for work in store.rows.values())


async def test_what_was_taken_and_has_no_room_yet_goes_back_at_a_stop() -> None:
    settings = FAST.model_copy(update={"max_in_flight_bytes": 1000})
    broker, store, handler = FakeBroker(TOPICS, partitions=1), MemoryStore(), Handler(lambda _: asyncio.sleep(0.1))
    await send(broker, *(big_clip(n, 1000) for n in range(5)))
    async with consuming(broker, handler, store, settings):
        await until(lambda: handler.at_once == 1)
    assert (len(store.rows), uncommitted(broker)) == (1, 4)
    async with consuming(broker, Handler(), store, settings):
        await until(lambda: len(store.rows) == 5 and uncommitted(broker) == 0)


async def most_of(value: Callable[[], int], true: Callable[[], bool]) -> int:
    most = 0
    async with asyncio.timeout(5):
        while not true():
            most = max(most, value())
            await asyncio.sleep(0.001)
    return most


async def test_media_are_held_only_while_they_are_worked_off() -> None:
    seen: list[weakref.ref[Incoming]] = []

    class Remembering(Handler):
        async def work(self, event: Incoming, deadline_s: float) -> Work:
            seen.append(weakref.ref(event))
            return await super().work(event, deadline_s)

    broker, store, handler = FakeBroker(TOPICS, partitions=1), MemoryStore(), Remembering()
    store.down = True
    await send(broker, clip("s", 0))
    async with consuming(broker, handler, store) as consumer:
        await until(lambda: handler.seen == ["s@0"] and handler.at_once == 0)
        await asyncio.sleep(0.02)
        gc.collect()
        assert consumer.in_flight == 1
        assert [event() for event in seen] == [None]
        store.down = False
        await until(lambda: len(store.rows) == 1)


async def test_an_event_waits_for_a_node_that_is_down_and_is_no_dead_letter() -> None:
    down = True

    async def unavailable(name: str) -> None:
        if down:
            raise NodeUnavailable

    broker, store, handler = FakeBroker(TOPICS), MemoryStore(), Handler(unavailable)
    await send(broker, post(1))
    async with consuming(broker, handler, store):
        await until(lambda: len(handler.seen) > 3 * FAST.max_attempts)
        assert not store.rows
        down = False
        await until(lambda: len(store.rows) == 1)
    assert store.rows == {"p1": ViewCount("p1", 1, AT)}


async def test_waiting_for_a_node_costs_an_event_none_of_its_attempts() -> None:
    tries = 0

    async def down_and_then_slow_to_begin(name: str) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2 * FAST.max_attempts:
            raise NodeUnavailable
        if tries < 3 * FAST.max_attempts:
            raise DeadlineExceeded

    broker, store = FakeBroker(TOPICS), MemoryStore()
    await send(broker, post(1))
    async with consuming(broker, Handler(down_and_then_slow_to_begin), store):
        await until(lambda: len(store.rows) == 1)
    assert store.rows == {"p1": ViewCount("p1", 1, AT)}


def view(number: int) -> OutRecord:
    fields = {"post_id": f"v{number}", "views": 1, "at": AT.isoformat()}
    return OutRecord("parakh.views", b"v", event("parakh.post.viewed", 10**6 + number, fields))


async def test_a_graph_that_hangs_costs_no_event_its_attempts() -> None:
    """Views need no graph: that they go on says nothing of it."""
    hangs = True

    async def deadline_passes(name: str) -> None:
        if name[0] == "p" and hangs:
            await asyncio.sleep(0.01)
            raise DeadlineExceeded

    broker, store, handler = FakeBroker(TOPICS), MemoryStore(), Handler(deadline_passes)
    await send(broker, *(post(n) for n in range(4)))
    async with consuming(broker, handler, store):
        for number in range(20):
            await send(broker, view(number))
            await asyncio.sleep(0.02)
        await until(lambda: all(handler.seen.count(f"p{n}") > FAST.max_attempts for n in range(4)))
        assert sorted({name[0] for name in store.rows}) == ["v"]
        hangs = False
        await until(lambda: len(store.rows) == 24)
    assert not [work for work in store.rows.values() if isinstance(work, Refusal)]


async def test_an_event_whose_deadline_passes_while_others_go_on_becomes_a_refusal() -> None:
    async def first_hangs(name: str) -> None:
        if name == "p0":
            await asyncio.sleep(0.03)
            raise DeadlineExceeded

    broker, store, handler = FakeBroker(TOPICS), MemoryStore(), Handler(first_hangs)
    await send(broker, post(0))
    async with consuming(broker, handler, store):
        async with asyncio.timeout(5):
            number = 0
            while not any(isinstance(work, Refusal) for work in store.rows.values()):
                number += 1
                await send(broker, post(number))
                await asyncio.sleep(0.005)
    (refusal,) = [work for work in store.rows.values() if isinstance(work, Refusal)]
    assert refusal.code == "deadline_exceeded"
    assert handler.seen.count("p0") >= FAST.max_attempts


@pytest.mark.parametrize(
    ("error", "code", "attempts"),
    [
        (FetchFailed("The server said 404."), "fetch_failed", FAST.max_attempts),
        (LanguageModelUnavailable("The model of hi."), "language_model_unavailable", FAST.max_attempts),
        (UndecodableMedia("Nothing decodes."), "undecodable_media", 1),
        (RuntimeError("a secret of the inside"), "internal_error", FAST.max_attempts),
    ],
)
async def test_what_can_never_be_worked_off_becomes_a_refusal(error: Exception, code: str, attempts: int) -> None:
    async def fails(name: str) -> None:
        if name == "p1":
            raise error

    broker, store, handler = FakeBroker(TOPICS, partitions=1), MemoryStore(), Handler(fails)
    await send(broker, post(0), post(1), post(2))
    async with consuming(broker, handler, store):
        await until(lambda: len(store.rows) == 3 and uncommitted(broker) == 0)
    (refusal,) = [work for work in store.rows.values() if isinstance(work, Refusal)]
    assert refusal.code == code
    assert "secret" not in refusal.reason
    assert handler.seen.count("p1") == attempts


async def test_what_cannot_be_read_becomes_a_refusal() -> None:
    broker, store = FakeBroker(TOPICS), MemoryStore()
    await send(broker, OutRecord("parakh.posts", b"k", b"\xff\xfe not json"), post(1))
    async with consuming(broker, Handler(), store):
        await until(lambda: len(store.rows) == 2 and uncommitted(broker) == 0)
    assert any(isinstance(work, Refusal) for work in store.rows.values())


async def test_while_the_database_is_away_nothing_is_forgotten_and_the_window_fills_up() -> None:
    settings = FAST.model_copy(update={"max_in_flight": 10})
    broker, store, handler = FakeBroker(TOPICS), MemoryStore(), Handler()
    store.down = True
    await send(broker, *(post(n) for n in range(50)))
    async with consuming(broker, handler, store, settings):
        await asyncio.sleep(0.3)
        assert uncommitted(broker) == 50
        assert len(handler.seen) == 10
        store.down = False
        await until(lambda: len(store.rows) == 50 and uncommitted(broker) == 0)


async def test_an_outcome_that_breaks_the_store_becomes_a_dead_letter_and_stops_nobody() -> None:
    broker, store = FakeBroker(TOPICS), MemoryStore()
    store.breaks = {"p3"}
    await send(broker, *(post(n) for n in range(10)))
    async with consuming(broker, Handler(), store):
        await until(lambda: len(store.rows) == 10 and uncommitted(broker) == 0)
    (refusal,) = [work for work in store.rows.values() if isinstance(work, Refusal)]
    assert refusal.code == "internal_error"
    assert "secret" not in refusal.reason


class BrokenStore(MemoryStore):
    """Not even a refusal can be stored."""

    async def conclude(self, conclusions: Sequence[Conclusion]) -> list[Concluded]:
        raise RuntimeError("a table is missing")


async def test_a_consumer_that_can_store_nothing_at_all_ends_and_says_so() -> None:
    """It would stand still for ever, and look well."""
    broker = FakeBroker(TOPICS)
    await send(broker, *(post(n) for n in range(10)))
    consumer = Consumer(broker.source(TOPICS), EventReader(), Handler(), BrokenStore(), FAST)
    with pytest.raises(WorkLost):
        await asyncio.wait_for(consumer.run(), 5)
    assert uncommitted(broker) == 10


async def test_an_event_whose_task_ends_without_an_outcome_ends_the_consumer() -> None:
    async def cancelled_from_below(name: str) -> None:
        raise asyncio.CancelledError

    broker = FakeBroker(TOPICS)
    await send(broker, post(1))
    handler = Handler(cancelled_from_below)
    with pytest.raises(WorkLost):
        await asyncio.wait_for(Consumer(broker.source(TOPICS), EventReader(), handler, MemoryStore(), FAST).run(), 5)
    assert uncommitted(broker) == 1


class EndedSource(FakeSource):
    """A client that has ended for good: every call is an error until it is started anew."""

    starts = 0

    async def start(self) -> None:
        await super().start()
        self.starts += 1

    async def take(self, limit: int, wait_s: float) -> list[Message]:
        if self.starts == 1:
            raise BrokerUnavailable
        return await super().take(limit, wait_s)


async def test_a_client_that_has_ended_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "START_ANEW_AFTER_S", 0.1)
    broker, store = FakeBroker(TOPICS), MemoryStore()
    await send(broker, post(1))
    source = EndedSource(broker, TOPICS, "parakh")
    consumer = Consumer(source, EventReader(), Handler(), store, FAST)
    running = asyncio.create_task(consumer.run())
    await until(lambda: len(store.rows) == 1 and uncommitted(broker) == 0)
    consumer.stop()
    await asyncio.wait_for(running, 5)
    assert source.starts == 2


async def test_while_the_broker_is_away_the_consumer_waits_and_goes_on() -> None:
    broker, store = FakeBroker(TOPICS), MemoryStore()
    broker.down = True
    async with consuming(broker, Handler(), store):
        await asyncio.sleep(0.1)
        broker.down = False
        await send(broker, post(1))
        await until(lambda: len(store.rows) == 1)
        broker.down = True
        await asyncio.sleep(0.1)
        broker.down = False
        await send(broker, post(2))
        await until(lambda: len(store.rows) == 2 and uncommitted(broker) == 0)


async def test_stopping_finishes_what_is_in_work_and_takes_no_more() -> None:
    broker, store, handler = FakeBroker(TOPICS), MemoryStore(), Handler(lambda _: asyncio.sleep(0.2))
    await send(broker, *(post(n) for n in range(100)))
    async with consuming(broker, handler, store):
        await until(lambda: handler.at_once > 8)
    assert len(store.rows) == len(handler.seen) < 100
    assert uncommitted(broker) == 100 - len(store.rows)


async def test_what_does_not_end_in_time_goes_to_the_next_consumer() -> None:
    hang = True

    async def hangs(name: str) -> None:
        if hang and name == "p3":
            await asyncio.sleep(60)

    settings = FAST.model_copy(update={"drain_s": 0.1})
    broker, store = FakeBroker(TOPICS), MemoryStore()
    await send(broker, *(post(n) for n in range(8)))
    async with consuming(broker, Handler(hangs), store, settings):
        await until(lambda: len(store.rows) == 7)
    hang = False
    async with consuming(broker, Handler(hangs), store, settings):
        await until(lambda: len(store.rows) == 8 and uncommitted(broker) == 0)


async def test_consumers_that_die_at_any_moment_lose_nothing_and_store_nothing_twice() -> None:
    broker, store = FakeBroker(TOPICS), MemoryStore()
    store.delay_s = 0.003
    await send(broker, *(post(n) for n in range(200)), *(clip(f"s{n % 5}", n // 5) for n in range(100)))
    lives = 0
    while len(store.rows) < 300 or uncommitted(broker):
        lives += 1
        assert lives < 60
        source = broker.source(TOPICS)
        running = asyncio.create_task(Consumer(source, EventReader(), Handler(), store, FAST).run())
        await asyncio.sleep(0.02 + 0.015 * (lives % 4))
        running.cancel()  # no drain: as a killed process
        await asyncio.gather(running, return_exceptions=True)
    assert lives > 2
    assert len(store.order) == len(set(store.order)) == 300


async def test_two_consumers_share_the_work_and_one_outlives_the_other() -> None:
    broker, store = FakeBroker(TOPICS), MemoryStore()
    first, second = Handler(lambda _: asyncio.sleep(0.005)), Handler(lambda _: asyncio.sleep(0.005))
    await send(broker, *(post(n) for n in range(150)))
    async with consuming(broker, first, store):
        async with consuming(broker, second, store):
            await until(lambda: len(store.rows) > 60)
        await until(lambda: len(store.rows) == 150 and uncommitted(broker) == 0)
    assert len(first.seen) > 20
    assert len(second.seen) > 10
    assert len(store.order) == 150
