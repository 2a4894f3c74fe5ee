"""However messages are batched, repeated, interleaved, raced and interrupted: the same rows, the same events."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from serve_app.gate_settings import QueueSettings
from serve_app.records import Records, outbox
from serve_app.records.engine import RecordsUnavailable
from serve_app.records.errors import MediaBeingDeleted
from serve_app.records.events import EventStore
from serve_app.records.references import FloodLimit
from serve_app.records.values import Concluded, Conclusion
from tests.databases import sqlite_url
from tests.records.conclusions import REFUSAL, concluded, judged_clip, judged_post, message, told, views

TABLES = ("posts", "jobs", "verdicts", "clips", "streams", "view_counts", "dead_letters", "consumed_events")
OF_TIME = {"received_at", "available_at", "updated_at", "finished_at"}  # of the run, not of the messages


def world() -> list[Conclusion]:
    """Every kind of message; events that share a post, a clip, a place."""
    works: list[Any] = [judged_post(f"p{n}", f"words {n}") for n in range(4)]
    works += [judged_post("p0", "words 0", "2"), judged_post("p1", "edited", revision=1)]
    works += [judged_clip(stream, n, 0.99 if n % 3 else 0.01) for stream in ("s1", "s2") for n in range(4)]
    works += [views(count, "p0", n) for n, count in enumerate((10, 1000, 1500, 2500))]
    messages = [concluded(work, f"e{n}", n) for n, work in enumerate(works)]
    messages += [concluded(judged_post("p3", "words 3"), "another event", 50)]
    messages += [Conclusion(message(60 + n), None, REFUSAL) for n in range(2)]
    return messages


async def rows(records: Records) -> dict[str, list[tuple[Any, ...]]]:
    def read(session: Session) -> dict[str, list[tuple[Any, ...]]]:
        found = {}
        for table in TABLES:
            lines = session.execute(text(f"SELECT * FROM {table}")).mappings()
            kept = [tuple(v for k, v in line.items() if k not in OF_TIME | _own(table)) for line in lines]
            found[table] = sorted(kept, key=repr)
        return found

    return await records._database.read(read)


def _own(table: str) -> set[str]:
    """What follows from when, or in which order, the messages came."""
    known: dict[str, set[str]] = {
        "consumed_events": {"at", "outcome"},
        "dead_letters": {"at"},
        "jobs": {"created_at", "attempts"},
        "streams": {"created_at"},
    }
    return known.get(table, set())


def per_key(events: Sequence[Any]) -> Counter[tuple[str, str, str]]:
    """How often what was told; a stream's changes depend on the order its clips came in."""
    return Counter(
        (event.type, event.key, str(event.payload.get("start_s"))) for event in events if event.topic != outbox.STREAMS
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """One message at a time, each once."""

    async def one_by_one() -> tuple[Any, Any]:
        records = await Records.open(sqlite_url(tmp_path_factory.mktemp("once")))
        for conclusion in world():
            await records.events.conclude([conclusion])
        found = await rows(records), per_key(await told(records))
        await records.close()
        return found

    return asyncio.run(one_by_one())


deliveries = st.lists(st.lists(st.integers(0, len(world()) - 1), min_size=1, max_size=8), min_size=1, max_size=12)


class TestAnyDelivery:
    """Each delivery is followed by every message once, as a broker would in the end."""

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(delivered=deliveries, seed=st.integers(0, 2**32))
    def test_gives_the_same_rows_and_events(
        self, expected: tuple[Any, Any], delivered: list[list[int]], seed: int
    ) -> None:
        async def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                records = await Records.open(sqlite_url(Path(folder)))
                await deliver(records, delivered, random.Random(seed))
                assert await rows(records) == expected[0]
                assert per_key(await told(records)) == expected[1]
                await records.close()

        asyncio.run(run())

    async def test_on_both_databases(self, records: Records, expected: tuple[Any, Any]) -> None:
        chance = random.Random(7)
        batches = [[chance.randrange(len(world())) for _ in range(8)] for _ in range(12)]
        await deliver(records, batches, chance)
        assert per_key(await told(records)) == expected[1]
        assert {table: len(found) for table, found in (await rows(records)).items()} == {
            table: len(found) for table, found in expected[0].items()
        }


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(bad=st.lists(st.booleans(), min_size=6, max_size=24), seed=st.integers(0, 2**32))
def test_clips_in_order_tell_the_same_changes_however_they_are_batched(bad: list[bool], seed: int) -> None:
    works = [concluded(judged_clip("s1", n, 0.99 if raised else 0.01), f"e{n}", n) for n, raised in enumerate(bad)]

    async def changes(folder: str, chance: random.Random | None) -> list[Any]:
        """With `chance`: in batches, each beginning with clips that had been there."""
        records = await Records.open(sqlite_url(Path(folder), f"{chance is None}.db"))
        at = 0
        while at < len(works):
            size = 1 if chance is None else chance.randint(1, 8)
            again = 0 if chance is None else chance.randint(0, 3)
            await records.events.conclude(works[max(0, at - again) : at + size])
            at += size
        found = [(event.type, event.payload) for event in await told(records, outbox.STREAMS)]
        await records.close()
        return found

    with tempfile.TemporaryDirectory() as folder:
        once = asyncio.run(changes(folder, None))
        assert asyncio.run(changes(folder, random.Random(seed))) == once


async def deliver(records: Records, batches: list[list[int]], chance: random.Random) -> None:
    messages = world()
    for batch in batches:
        await records.events.conclude([messages[n] for n in batch])
    rest = list(messages)
    chance.shuffle(rest)
    while rest:
        size = chance.randint(1, 8)
        await records.events.conclude(rest[:size])
        rest = rest[size:]


async def test_writers_that_take_the_same_in_opposite_order(records: Records, open_records: Callable[[], Any]) -> None:
    """None of them fails (on PostgreSQL a deadlock would end one of two), and each post is judged once."""
    stores = [records, await open_records(), await open_records()]
    works: list[Any] = [judged_post(f"p{n}", media_sha256=f"{n:064x}") for n in range(8)]
    works += [judged_clip(f"s{n}") for n in range(8)] + [views(1500, f"p{n}") for n in range(8)]
    outcomes: list[Concluded] = []

    async def bring(writer: int) -> None:
        batch = [concluded(work, f"{writer}:{n}", 100 * writer + n) for n, work in enumerate(works)]
        batch += [Conclusion(message(n), None, REFUSAL) for n in range(3)]
        random.Random(writer).shuffle(batch)
        outcomes.extend(await stores[writer % 3].events.conclude(batch))

    await asyncio.gather(*(bring(writer) for writer in range(9)))
    assert outcomes.count("done") == 16 + 9 * 8  # a count that is not higher is done, too
    events = await told(records)
    assert Counter(event.type for event in events) == {
        outbox.POST_JUDGED: 8,
        outbox.CLIP_JUDGED: 8,
        outbox.POST_MILESTONE: 8,
        outbox.MESSAGE_DEAD: 3,
    }
    assert len(await records.dead_letters.list()) == 3


async def test_both_doors_at_once(records: Records, open_records: Callable[[], Any]) -> None:
    other: Records = await open_records()
    works = [judged_post(f"p{n}") for n in range(8)]

    async def http(n: int) -> None:
        ticket = await other.posts.accept(works[n].submission, lease_s=60, policy_version="1")
        if ticket.lease is not None:
            await other.posts.conclude(ticket.lease, works[n].verdict)

    batch = [concluded(work, f"e{n}") for n, work in enumerate(works)]
    await asyncio.gather(*(http(n) for n in range(8)), records.events.conclude(batch[::-1]))
    assert len(await told(records, outbox.VERDICTS)) == 8


class Broken:
    """A database that loses its connection just before the commit."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def write(self, work: Callable[[Session], Any]) -> Any:
        def lost(session: Session) -> Any:
            work(session)
            session.flush()
            raise RecordsUnavailable

        return await self.inner.write(lost)


async def test_a_crash_before_the_commit_leaves_nothing(records: Records) -> None:
    broken: Any = Broken(records._database)
    store = EventStore(broken, FloodLimit(), records.events._rule, (1000,), QueueSettings())
    with pytest.raises(RecordsUnavailable):
        await store.conclude(world())
    assert set(map(len, (await rows(records)).values())) == {0}
    assert await told(records) == []
    assert "dead" in await records.events.conclude(world())


async def test_media_that_is_being_deleted_is_tried_again_and_no_ones_fault(records: Records) -> None:
    digest = "ab" * 32
    work = judged_post(media_sha256=digest)
    deleting, deleted = asyncio.Event(), asyncio.Event()

    async def slowly(_: str) -> None:
        deleting.set()
        await deleted.wait()

    await records.garbage.add(digest)
    sweep = asyncio.create_task(records.garbage.sweep(slowly))
    await deleting.wait()
    with pytest.raises(MediaBeingDeleted):
        await records.events.conclude([concluded(judged_clip()), concluded(work)])
    deleted.set()
    await sweep
    assert await records.events.conclude([concluded(judged_clip()), concluded(work)]) == ["done", "done"]


async def test_the_file_of_what_is_not_stored_is_garbage(records: Records) -> None:
    ours, other = "ab" * 32, "cd" * 32
    await records.events.conclude([concluded(judged_post(media_sha256=ours), "e1")])
    again = judged_post(media_sha256=ours)
    conflict = judged_post(caption="other", media_sha256=other)
    await records.events.conclude([concluded(again, "e2"), concluded(conflict, "e3")])
    deleted: list[str] = []

    async def delete(digest: str) -> None:
        deleted.append(digest)

    await records.garbage.sweep(delete)
    assert deleted == [other]
