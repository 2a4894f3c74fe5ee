"""What every broker does for the event path, the one in the process and the real ones alike."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from serve_app.events.brokers import MessageTooLarge, OutRecord
from tests.events.brokers.worlds import World, nothing_more, numbers, take, values


async def test_messages_of_a_key_keep_their_order(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(60), keys=5)
    source = await world.source(topic)
    found = await take(source, 60)
    for key in range(5):
        assert values(m for m in found if m.key == b"k%d" % key) == numbers(60)[key::5]


async def test_offsets_rise_within_a_partition(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(40))
    found = await take(await world.source(topic), 40)
    for partition in {m.partition for m in found}:
        offsets = [m.offset for m in found if m.partition == partition]
        assert offsets == sorted(set(offsets))


@pytest.mark.slow
async def test_what_is_done_does_not_come_again(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(20))
    first = await world.source(topic)
    await first.done(await take(first, 20))
    await first.close()
    await world.send(topic, [b"last"])
    second = await world.source(topic)
    assert values(await take(second, 1)) == [b"last"]
    assert await nothing_more(second)


@pytest.mark.slow
async def test_what_is_not_done_comes_again_to_another_member(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(20))
    first = await world.source(topic)
    await take(first, 12)
    await first.close()
    second = await world.source(topic)
    assert sorted(values(await take(second, 20))) == numbers(20)


@pytest.mark.slow
async def test_a_hole_in_what_is_done_comes_again(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.send(topic, numbers(10), keys=1)
    first = await world.source(topic)
    found = await take(first, 10)
    await first.done([found[9], found[1], found[0], found[2]])
    await first.done(found[4:9])
    await first.close()
    second = await world.source(topic)
    again = await take(second, 1 if world.name == "nats" else 7)
    assert values(again)[0] == b"0003"
    assert await nothing_more(second)
    await second.done(again)


async def test_two_members_share_and_lose_nothing(world: World) -> None:
    topic = await world.topic()
    one, two = await world.source(topic), await world.source(topic)
    await world.send(topic, numbers(200), keys=40)
    found: dict[int, list[bytes]] = {0: [], 1: []}
    async with asyncio.timeout(40):
        while len({*found[0], *found[1]}) < 200:
            for who, source in enumerate((one, two)):
                taken = await source.take(10, 0.1)
                await source.done(taken)
                found[who] += values(taken)
    assert found[0]
    assert found[1]
    assert sorted({*found[0], *found[1]}) == numbers(200)


async def test_groups_do_not_share(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(10))
    one, two = await world.source(topic, group="one"), await world.source(topic, group="two")
    assert sorted(values(await take(one, 10))) == sorted(values(await take(two, 10))) == numbers(10)


async def test_a_source_reads_all_its_topics(world: World) -> None:
    topics = [await world.topic() for _ in range(3)]
    for topic in topics:
        await world.send(topic, [topic.encode()])
    found = await take(await world.source(*topics), 3)
    assert {(m.topic, m.value.decode()) for m in found} == {(topic, topic) for topic in topics}


async def test_take_gives_no_more_than_asked_and_nothing_where_nothing_is(world: World) -> None:
    topic = await world.topic()
    source = await world.source(topic)
    assert await source.take(5, 0.3) == []
    await world.send(topic, numbers(20))
    found = await take(source, 1)
    async with asyncio.timeout(20):
        while len(found) < 20:
            given = await source.take(7, 0.5)
            assert len(given) <= 7
            found += given
    assert sorted(values(found)) == numbers(20)


async def test_a_take_that_is_cancelled_loses_nothing(world: World) -> None:
    topic = await world.topic()
    source = await world.source(topic)
    found = []
    for n in range(30):
        taking = asyncio.create_task(source.take(5, 2.0))
        await asyncio.sleep(0.001 * (n % 10))
        await world.send(topic, [b"%04d" % n])
        if not taking.done():
            taking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            found += await taking
    found += await take(source, 30 - len(found))
    assert sorted(values(found)) == numbers(30)


async def test_keys_headers_and_values_of_any_bytes(world: World) -> None:
    topic = await world.topic()
    headers = {
        "ce_type": b"post.created",
        "with space at the end": b"x ",
        "नाम": "हिन्दी".encode(),
        "binary": bytes(range(256)),
        "lines": b"a\r\nNats-Msg-Id: forged\r\n",
        "empty": b"",
        "percent": b"100%25",
    }
    sent = [
        OutRecord(topic, "कुंजी".encode(), bytes(range(256)), headers, "1"),
        OutRecord(topic, b"\x00\xff\r\n", b"", {}, "2"),
        OutRecord(topic, None, b"no key", {}, "3"),
    ]
    producer = await world.producer()
    assert await producer.publish(sent) == [None] * 3
    found = {m.value: m for m in await take(await world.source(topic), 3)}
    for record in sent:
        assert found[record.value].key == record.key
        assert found[record.value].headers == record.headers


async def test_the_time_is_when_the_broker_had_it(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, [b"x"])
    (found,) = await take(await world.source(topic), 1)
    assert found.timestamp.tzinfo is not None
    assert abs(found.timestamp.timestamp() - time.time()) < 20


async def test_a_record_that_is_too_large_is_told_and_its_neighbours_go(world: World) -> None:
    topic = await world.topic()
    records = [
        OutRecord(topic, b"k", b"before"),
        OutRecord(topic, b"k", bytes(2**21)),
        OutRecord(topic, b"k", b"after"),
    ]
    producer = await world.producer()
    before, large, after = await producer.publish(records)
    assert before is None
    assert isinstance(large, MessageTooLarge)
    assert after is None
    assert values(await take(await world.source(topic), 2)) == [b"before", b"after"]


async def test_a_large_message_arrives_whole(world: World) -> None:
    topic = await world.topic()
    value = bytes(range(256)) * 4000  # 1.02 MB: just what the brokers take by default
    await world.send(topic, [value, b"small"], keys=1)
    found = await take(await world.source(topic), 2)
    assert values(found) == [value, b"small"]


async def test_lag_counts_what_is_not_done(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(10))
    source = await world.source(topic)
    found = await take(source, 6)
    assert await source.lag() == {topic: 10}
    await source.done(found)
    async with asyncio.timeout(5):
        while await source.lag() != {topic: 4}:
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_what_is_released_comes_again(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(4))
    first = await world.source(topic)
    found = await take(first, 4)
    await first.done(found[:1])
    await first.release(found[1:])
    await first.close()
    second = await world.source(topic)
    again = await take(second, 3)
    assert set(values(found[1:])) <= set(values(again)) | set(values(await second.take(10, 0.5)))


@pytest.mark.slow
async def test_a_member_that_works_long_and_keeps_stays(world: World) -> None:
    """Beyond every time-out: the group's, the poll interval's and the acknowledgement's."""
    topic = await world.topic()
    await world.send(topic, numbers(6))
    busy = await world.source(topic)
    found = await take(busy, 6)
    for _ in range(32):
        await busy.keep(found)
        await asyncio.sleep(0.25)
    assert busy.lost(found) == []
    await busy.done(found)
    await world.send(topic, [b"last"])
    assert values(await take(busy, 1)) == [b"last"]
    await busy.close()
    second = await world.source(topic)
    assert values(await take(second, 1)) == [b"last"]
    assert await nothing_more(second)
