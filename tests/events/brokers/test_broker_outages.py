"""A broker that is away at the start, goes away and comes back; and members that die."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from serve_app.events.brokers import BrokerUnavailable, OutRecord, Source, open_producer, open_source
from serve_app.events.brokers.fake import FakeBroker
from serve_app.events.message import Message
from tests.events.brokers.worlds import World, nothing_more, numbers, settings_for, take, values
from tests.events.conftest import started
from tests.events.servers import BrokerProcess, Road, kafka_process, nats_process

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(params=["kafka", "nats"])
async def far(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[World, Road]]:
    """A broker behind a road that can be cut. It lives on when it is."""
    road = Road()
    start: dict[str, Callable[[], BrokerProcess]] = {
        "kafka": lambda: kafka_process(advertised_port=road.port),
        "nats": lambda: nats_process(tmp_path),
    }
    server = started(start[request.param])
    road.target = server.port
    await road.open()
    world = World(request.param, settings=settings_for(request.param, road.address))
    yield world, road
    await world.close()
    await road.cut()
    server.stop()


async def until_up(source: Source, count: int, within_s: float = 40.0) -> list[Message]:
    """Takes as a consumer does: again after a while where the broker is away."""
    found: list[Message] = []
    async with asyncio.timeout(within_s):
        while len(found) < count:
            try:
                found += await source.take(count, 0.5)
            except BrokerUnavailable:
                await asyncio.sleep(0.2)
    return found


async def until_down(source: Source, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while True:
            await source.take(1, 0.5)


async def test_a_broker_that_is_away_at_the_start(far: tuple[World, Road]) -> None:
    world, road = far
    topic = await world.topic()
    await road.cut()
    source, producer = open_source(world.settings, [topic]), open_producer(world.settings)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        await source.start()
    with pytest.raises(BrokerUnavailable):
        await source.take(1, 0.1)
    with pytest.raises(BrokerUnavailable):
        await producer.start()
    (told,) = await producer.publish([OutRecord(topic, b"k", b"x")])
    assert isinstance(told, BrokerUnavailable)
    assert time.monotonic() - began < 30

    await road.open()
    await source.start()
    await producer.start()
    assert await producer.publish([OutRecord(topic, b"k", b"x")]) == [None]
    assert values(await take(source, 1)) == [b"x"]
    await source.close()
    await producer.close()


async def test_a_broker_that_goes_away_and_comes_back(far: tuple[World, Road]) -> None:
    world, road = far
    topic = await world.topic(partitions=1)
    source, producer = await world.source(topic), await world.producer()
    records = [OutRecord(topic, b"k", value, id=str(n)) for n, value in enumerate(numbers(8))]
    assert await producer.publish(records[:4]) == [None] * 4
    found = await take(source, 4)

    await road.cut()
    told = await producer.publish(records[4:])
    assert all(isinstance(error, BrokerUnavailable) for error in told)
    with pytest.raises(BrokerUnavailable):
        await until_down(source)
    await source.done(found[:2])  # not heard, and no reason to raise
    await source.keep(found[2:])

    await road.open()
    async with asyncio.timeout(30):
        while any(error is not None for error in await producer.publish(records[4:])):
            await asyncio.sleep(0.2)
    again = values(await until_up(source, 4))
    async with asyncio.timeout(30):
        while not set(numbers(8)[4:]) <= set(again):
            again += values(await until_up(source, 1))
    assert set(again) <= set(numbers(8))


async def test_a_key_sends_nothing_after_what_may_not_have_arrived() -> None:
    broker = FakeBroker(["t"])
    producer = broker.producer()
    appended = broker.append

    def shaky(record: OutRecord) -> Message:
        if record.value == b"2":
            raise BrokerUnavailable
        return appended(record)

    broker.append = shaky  # type: ignore[method-assign]
    told = await producer.publish(
        [OutRecord("t", b"a", b"1"), OutRecord("t", b"a", b"2"), OutRecord("t", b"a", b"3"), OutRecord("t", b"b", b"4")]
    )
    assert [error is None for error in told] == [True, False, False, True]
    assert sorted(values(broker.messages("t"))) == [b"1", b"4"]


CHILD = """
import asyncio, json, sys
from serve_app.events.brokers import open_source
from serve_app.events.settings import BrokerSettings

async def main(settings, topic):
    source = open_source(BrokerSettings.model_validate_json(settings), [topic])
    await source.start()
    while True:
        for message in await source.take(5, 0.5):
            print(json.dumps(message.value.decode()), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("world", ["kafka", "nats"], indirect=True)
async def test_a_member_that_is_killed_leaves_its_messages_to_another(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(30))
    settings = world.settings.model_copy(update={"group": f"g-{world.run}"})
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, settings.model_dump_json(), topic, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None
    async with asyncio.timeout(30):
        had = [json.loads(await child.stdout.readline()) for _ in range(10)]
    child.send_signal(signal.SIGKILL)
    await child.wait()
    assert len(set(had)) == 10
    heir = await world.source(topic)
    found = await take(heir, 30, within_s=60)
    assert sorted(values(found)) == numbers(30)
    await heir.done(found)
    assert await nothing_more(heir)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["kafka", "nats"], indirect=True)
async def test_what_is_neither_kept_nor_done_is_lost_to_others(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(6))
    stuck = await world.source(topic)
    found = await take(stuck, 6)
    heir = await world.source(topic)
    assert sorted(values(await take(heir, 6, within_s=60))) == numbers(6)
    assert stuck.lost(found) == found


@pytest.mark.parametrize("world", ["fake", "kafka"], indirect=True)
async def test_a_new_member_takes_partitions_over(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(40), keys=12)
    old = await world.source(topic)
    found = await take(old, 40)
    await old.done(found[:10])
    new = await world.source(topic)
    theirs: list[Message] = []
    async with asyncio.timeout(40):
        while not theirs:
            theirs = await new.take(40, 0.2)
            await old.take(1, 0.1)
    assert old.lost(found[10:]) == found[10:]
    await old.done(found[10:])  # stored after all: no harm
    await new.done(theirs)
