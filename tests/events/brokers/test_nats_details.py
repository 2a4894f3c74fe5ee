"""What only NATS does: streams that exist, records sent twice, headers, and who may connect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.events.brokers import BrokerUnavailable, OutRecord, TopicMissing, open_producer, open_source
from serve_app.events.brokers.nats_client import from_headers, to_headers
from serve_app.events.brokers.nats_producer import NatsProducer
from tests.events.brokers.worlds import NATS, World, nothing_more, numbers, settings_for, take, values
from tests.events.conftest import started
from tests.events.servers import certificate, nats_process

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)


@pytest.fixture
async def world(nats_server: str) -> AsyncIterator[World]:
    made = World("nats", settings=settings_for("nats", nats_server))
    yield made
    await made.close()


@given(st.none() | st.binary(max_size=20), st.dictionaries(NAMES, st.binary(max_size=20), max_size=4))
def test_any_key_and_headers_survive(key: bytes | None, headers: dict[str, bytes]) -> None:
    wire = to_headers(key, headers)
    assert all(text.isascii() and text.isprintable() and text == text.strip() for text in (*wire, *wire.values()))
    assert from_headers(wire) == (key, headers)


def test_headers_of_others_pass_as_they_are() -> None:
    wire = {"ce-subject": "100%25 sure", "Nats-Msg-Id": "1", "Content-Type": "application/json"}
    assert from_headers(wire) == (None, {"ce-subject": b"100%25 sure", "Content-Type": b"application/json"})
    assert from_headers(None) == (None, {})


async def test_a_record_sent_twice_is_stored_once(world: World) -> None:
    topic = await world.topic()
    producer = await world.producer()
    for _ in range(3):
        assert await producer.publish([OutRecord(topic, b"k", b"x", id="event-1")]) == [None]
    source = await world.source(topic)
    assert values(await take(source, 1)) == [b"x"]
    assert await nothing_more(source)


async def test_an_existing_stream_that_holds_the_topic_is_used(world: World) -> None:
    client = await nats.connect(f"nats://{world.settings.servers[0]}")
    await client.jetstream().add_stream(name=f"ALL-{world.run}", subjects=[f"all.{world.run}.>"])
    topic = f"all.{world.run}.posts"
    await world.send(topic, [b"x"])
    await client.publish(f"all.{world.run}.others", b"not ours")
    source = await world.source(topic)
    assert values(await take(source, 1)) == [b"x"]
    assert await nothing_more(source)
    await client.close()


async def test_a_topic_that_does_not_exist_and_may_not_be_made(world: World) -> None:
    settings = world.settings.model_copy(update={"create_topics": False})
    producer = await world.producer()
    (told,) = await producer.publish([OutRecord("test.absent", None, b"x")])
    assert isinstance(told, TopicMissing)
    with pytest.raises(TopicMissing):
        await open_source(settings, ["test.absent"]).start()


async def test_what_is_released_goes_to_another_member_at_once(world: World) -> None:
    topic = await world.topic()
    await world.send(topic, numbers(4))
    draining, other = await world.source(topic), await world.source(topic)
    found = await take(draining, 4)
    await draining.release(found)
    assert sorted(values(await take(other, 4, within_s=1.5))) == numbers(4)  # before ack_wait is over


async def test_a_group_that_has_all_it_may_have_waits(nats_server: str) -> None:
    world = World("nats", settings=settings_for("nats", nats_server, nats=NATS | {"max_ack_pending": 5}))
    topic = await world.topic()
    await world.send(topic, numbers(8))
    source = await world.source(topic)
    found = await take(source, 5)
    assert await source.take(10, 0.5) == []
    await source.done(found)
    assert values(await take(source, 3)) == numbers(8)[5:]
    await world.close()


async def test_password_and_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    (tmp_path / "password").write_text("right\n")
    (tmp_path / "wrong").write_text("wrong\n")
    options = ("--user", "u", "--pass", "right", "--tls", "--tlscert", str(cert), "--tlskey", str(key))
    server = started(lambda: nats_process(tmp_path / "js", *options))
    right = {"username": "u", "password_file": str(tmp_path / "password"), "tls": True, "ca_file": str(cert)}
    producer = open_producer(settings_for("nats", server.address, security=right))
    await producer.start()
    await producer.close()
    for wrong in (
        right | {"password_file": str(tmp_path / "wrong")},
        right | {"ca_file": None},
        right | {"tls": False, "ca_file": None},
    ):
        with pytest.raises(BrokerUnavailable):
            await open_producer(settings_for("nats", server.address, security=wrong, connect_timeout_s=1.0)).start()
    server.stop()


async def test_with_tls_set_nothing_goes_to_a_server_without(nats_server: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    security = {"username": "u", "password_file": str(tmp_path / "password"), "tls": True}
    with pytest.raises(BrokerUnavailable):
        await open_producer(settings_for("nats", nats_server, security=security, connect_timeout_s=1.0)).start()
    with pytest.raises(BrokerUnavailable):
        await open_producer(settings_for("nats", nats_server, security={"tls": True}, connect_timeout_s=1.0)).start()


async def test_a_producer_whose_connection_the_server_closed_for_good_makes_a_new_one(world: World) -> None:
    topic = await world.topic()
    producer = NatsProducer(world.settings)
    await producer.start()
    assert producer._client is not None
    await producer._client._process_err("'User Authentication Expired'")
    while not producer._client.is_closed:
        await asyncio.sleep(0.01)
    assert await producer.publish([OutRecord(topic, None, b"x")]) == [None]
    await producer.close()
