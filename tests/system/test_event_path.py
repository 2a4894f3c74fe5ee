"""The event path as real processes: brokers, a database, `parakh consume`, signals, the commands of dead letters."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.sql.functions import count

from serve_app.events.message import Message
from serve_app.records import Records
from serve_app.records.engine import database_url
from serve_app.records.event_tables import ClipRow
from serve_app.records.tables import OutboxRow, VerdictRow
from tests.events.conftest import started
from tests.events.servers import kafka_process, nats_process
from tests.system.consumers import DRAIN_S, EventWorld, clip, text_post, until

POSTGRES_URL = os.environ.get("PARAKH_TEST_POSTGRES_URL")
STREAMS = ("s1", "s2", "s3")


@pytest.fixture
async def records_url(tmp_path: Path) -> str:
    """PostgreSQL where there is one, as where several processes share the work; else a file."""
    if POSTGRES_URL is None:
        return f"sqlite:///{tmp_path}/records.db"
    engine = create_async_engine(database_url(POSTGRES_URL))
    async with engine.begin() as connection:
        await connection.execute(text("DROP SCHEMA public CASCADE"))
        await connection.execute(text("CREATE SCHEMA public"))
    await engine.dispose()
    return POSTGRES_URL


@pytest.fixture(params=["kafka"])
def world(request: pytest.FixtureRequest, tmp_path: Path, records_url: str) -> Iterator[EventWorld]:
    kind: str = request.param
    server = started(kafka_process if kind == "kafka" else lambda: nats_process(tmp_path / "nats"))
    subject = EventWorld(tmp_path, kind, server.address, records_url)
    yield subject
    subject.stop()
    server.stop()


@pytest.fixture
async def records(records_url: str) -> AsyncIterator[Records]:
    subject = await Records.open(records_url)
    yield subject
    await subject.close()


async def test_two_share_the_load_and_one_s_death_loses_nothing(world: EventWorld, records: Records) -> None:
    first, second = world.start(), world.start()
    rounds = 0

    async def send_round() -> None:
        nonlocal rounds
        posts = [text_post(rounds * 20 + i) for i in range(20)]
        await world.send([*posts, *(clip(stream, float(rounds)) for stream in STREAMS)])
        rounds += 1

    while min(first.concluded(), second.concluded()) < 10:
        assert rounds < 150, "both must have had work by now"
        await send_round()
    await send_round()
    first.kill()  # with a part of that in work
    for _ in range(5):
        await send_round()
    judged = await world.read("parakh.verdicts", rounds * 20)
    assert dict.fromkeys((f"post-{n}" for n in range(rounds * 20)), 1) == ids_of_subjects(judged)
    assert await stored(records) == (rounds * 20, rounds * len(STREAMS))
    clips = await world.read("parakh.clips.judged", rounds * len(STREAMS))
    assert starts_of_streams(clips) == {stream: [float(n) for n in range(rounds)] for stream in STREAMS}


@pytest.mark.parametrize("world", ["kafka", "nats"], indirect=True)
async def test_sigterm_drains_what_is_in_work_and_leaves_the_rest(world: EventWorld, records: Records) -> None:
    sent = [text_post(number) for number in range(1_500)]
    await world.send(sent)
    first = world.start()
    await until(lambda: first.concluded() >= 20)
    code, took_s = first.terminate(timeout_s=DRAIN_S + 20)
    assert code == 0, first.log.read_text()
    assert took_s < DRAIN_S + 5
    by_first, _ = await stored(records)
    assert 20 <= by_first < len(sent)
    assert await waiting(records) == 0  # what it stored, it also told
    second = world.start()
    await until(lambda: second.concluded() >= len(sent) - by_first)
    judged = await world.read("parakh.verdicts", len(sent))
    assert Counter(ids_of_subjects(judged).values()) == {1: len(sent)}
    assert second.concluded() == len(sent) - by_first  # nothing that was stored came again


async def test_a_dead_letter_comes_to_life_once_its_cause_is_mended(world: EventWorld, records: Records) -> None:
    long = clip("s1", 0.0, seconds=25.0)
    await world.send([long, text_post(0)])
    first = world.start()
    (dead,) = await world.read("parakh.dead-letters", 1)
    assert dead.value == long.value
    assert first.terminate(timeout_s=DRAIN_S + 20)[0] == 0
    (letter,) = map(json.loads, world.command("events", "dead", "--json").splitlines())
    assert letter["id"] == dead.headers["parakh-dead-letter-id"].decode()
    assert "longer than 20.5 s" in letter["reason"]

    world.configure(streams={"encoder": {"variant": "fake", "max_clip_s": 30.0}})
    assert "replayed 1" in world.command("events", "replay", letter["id"])
    world.start()
    (judged,) = await world.read("parakh.clips.judged", 1)
    assert json.loads(judged.value)["data"]["duration_s"] == 25.0
    assert await stored(records) == (1, 1)
    assert world.command("events", "dead", "--json") == ""


def ids_of_subjects(messages: Sequence[Message]) -> dict[str, int]:
    """Subject -> how many events, repeated ones counted once, speak of it."""
    ids = defaultdict(set)
    for event in map(json.loads, (message.value for message in messages)):
        ids[event["subject"]].add(event["id"])
    return {subject: len(found) for subject, found in ids.items()}


def starts_of_streams(messages: Sequence[Message]) -> dict[str, list[float]]:
    """In the order in which the clips were told for the first time."""
    starts: defaultdict[str, list[float]] = defaultdict(list)
    for data in (json.loads(message.value)["data"] for message in messages):
        if data["start_s"] not in starts[data["stream_id"]]:
            starts[data["stream_id"]].append(data["start_s"])
    return dict(starts)


async def stored(records: Records) -> tuple[int, int]:
    """Verdicts and clips."""
    tables = (VerdictRow, ClipRow)
    queries = [select(count()).select_from(table) for table in tables]
    verdicts, clips = await records._database.read(lambda session: [session.execute(q).scalar_one() for q in queries])
    return verdicts, clips


async def waiting(records: Records) -> int:
    query = select(count()).select_from(OutboxRow).where(OutboxRow.published_at.is_(None))
    return await records._database.read(lambda session: session.execute(query).scalar_one())
