"""What only a broker of Kafka's protocol can show: very large messages, topics it makes, who may connect."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.errors import InvalidTopicError, NotLeaderForPartitionError, TopicAuthorizationFailedError

from serve_app.events.brokers import BrokerUnavailable, OutRecord, TopicMissing, ensure_topics, open_producer
from serve_app.events.brokers.kafka_client import connection, meaning
from tests.events.brokers.worlds import KAFKA, World, numbers, settings_for, take, values
from tests.events.conftest import started
from tests.events.servers import Road, certificate, kafka_process

LARGE = 50 * 2**20


@pytest.fixture
async def kafka(kafka_server: str) -> AsyncIterator[World]:
    changes = KAFKA | {"max_message_bytes": LARGE + 2**20, "partition_fetch_bytes": 2**20, "fetch_bytes": 2**22}
    timeouts = {"request_timeout_s": 30.0, "connect_timeout_s": 10.0}
    world = World("kafka", settings=settings_for("kafka", kafka_server, kafka=changes, **timeouts))
    yield world
    await world.close()


def test_a_topic_that_is_closed_to_us_holds_back_its_own_events_only() -> None:
    """As a missing one does: the publisher would take a broker for away, and wait with all."""
    for error in (TopicAuthorizationFailedError(), InvalidTopicError()):
        assert type(meaning(error)) is TopicMissing
    assert type(meaning(NotLeaderForPartitionError())) is BrokerUnavailable


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


async def test_tls_checks_the_brokers_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = certificate(tmp_path / "other")
    road = Road(tls=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    assert road.tls is not None
    road.tls.load_cert_chain(cert, key)
    server = started(lambda: kafka_process(advertised_port=road.port))
    road.target = server.port
    await road.open()
    good = World("kafka", settings=settings_for("kafka", road.address, security={"tls": True, "ca_file": str(cert)}))
    topic = await good.topic()
    await good.send(topic, [b"x"])
    assert values(await take(await good.source(topic), 1)) == [b"x"]
    for security in ({"tls": True, "ca_file": str(other)}, {"tls": True}, {"tls": False}):
        settings = settings_for("kafka", road.address, security=security, connect_timeout_s=1.0)
        with pytest.raises(BrokerUnavailable):
            await open_producer(settings).start()
    await good.close()
    await road.cut()
    server.stop()


@pytest.mark.parametrize(("tls", "protocol"), [(True, "SASL_SSL"), (False, "SASL_PLAINTEXT")])
def test_a_password_goes_by_the_mechanism_that_is_set(tmp_path: Path, tls: bool, protocol: str) -> None:
    (tmp_path / "password").write_text("secret\n")
    security = {
        "tls": tls,
        "mechanism": "SCRAM-SHA-512",
        "username": "parakh",
        "password_file": str(tmp_path / "password"),
    }
    options = connection(settings_for("kafka", "kafka:9092", security=security))
    assert options["security_protocol"] == protocol
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("parakh", "secret")
