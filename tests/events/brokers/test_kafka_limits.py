"""What only a broker of Kafka's protocol can show: very large messages, topics it makes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.events.brokers import OutRecord, ensure_topics
from tests.events.brokers.worlds import KAFKA, World, numbers, settings_for, take, values

LARGE = 50 * 2**20


@pytest.fixture
async def kafka(kafka_server: str) -> AsyncIterator[World]:
    changes = KAFKA | {"max_message_bytes": LARGE + 2**20, "partition_fetch_bytes": 2**20, "fetch_bytes": 2**22}
    timeouts = {"request_timeout_s": 30.0, "connect_timeout_s": 10.0}
    world = World("kafka", settings=settings_for("kafka", kafka_server, kafka=changes, **timeouts))
    yield world
    await world.close()


@pytest.mark.slow
async def test_a_message_of_50_mb_is_taken_and_what_lies_behind_it_too(kafka: World) -> None:
    """Its size is many times what may be fetched ahead."""
    topic = await kafka.topic(partitions=1)
    await kafka.send(topic, [b"before", bytes(LARGE), b"behind"], keys=1)
    source = await kafka.source(topic)
    found = await take(source, 3, within_s=60)
    assert [len(value) for value in values(found)] == [6, LARGE, 6]
    await source.done(found)
    assert await source.lag() == {topic: 0}


async def test_topics_are_created_once_and_left_alone_then(kafka: World) -> None:
    topic = await kafka.topic(partitions=2)
    await kafka.send(topic, numbers(3))
    await ensure_topics(kafka.settings, [topic, topic])
    assert sorted(values(await take(await kafka.source(topic), 3))) == numbers(3)


async def test_a_source_makes_its_topic_and_waits(kafka: World) -> None:
    topic = f"test.later.{kafka.run}"
    source = await kafka.source(topic)
    assert await source.take(1, 0.2) == []
    producer = await kafka.producer()
    assert await producer.publish([OutRecord(topic, None, b"x")]) == [None]
    assert values(await take(source, 1)) == [b"x"]
