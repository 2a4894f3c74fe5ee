"""The way out over real brokers: events as the package reads them, dead letters byte for byte, large ones too."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_structured
from cloudevents.core.formats.json import JSONFormat

from serve_app.events.brokers import ensure_topics, open_producer, open_source
from serve_app.events.duty import Duty
from serve_app.events.message import Message
from serve_app.events.publisher import OutboxPublisher
from serve_app.events.settings import BrokerSettings, TopicNames
from serve_app.records import Records
from serve_app.records.outbox import NewEvent, add
from serve_app.records.values import Conclusion, Refusal


async def taken(broker: BrokerSettings, topics: Sequence[str], count: int) -> dict[str, list[Message]]:
    source = open_source(broker, topics)
    await source.start()
    found: list[Message] = []
    while len(found) < count:
        found += await source.take(100, 1.0)
    await source.close()
    return {topic: [one for one in found if one.topic == topic] for topic in topics}


@pytest.mark.parametrize("kind", ["kafka", "nats"])
async def test_events_and_dead_letters_arrive(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    suffix = uuid.uuid4().hex[:8]
    topics = TopicNames(renamed={"parakh.verdicts": f"v{suffix}"}, dead_letters=f"d{suffix}")
    server = request.getfixturevalue(f"{kind}_server")
    asked = {"kind": kind, "servers": [server], "topics": topics, "group": f"g{suffix}"}
    broker = BrokerSettings.model_validate(asked | {"kafka": {"idempotent": False}})
    await ensure_topics(broker, [f"v{suffix}", f"d{suffix}"])
    records = await Records.open(f"sqlite:///{tmp_path}/parakh.db")
    events = [NewEvent("parakh.verdicts", "parakh.post.judged", "पोस्ट", {"n": number}) for number in range(500)]
    await records._database.write(lambda session: add(session, *events))
    headers = {"trace": b"\xff\x00\r\nevil: 1", "": b"x", "ключ": b"\xd0\xba", "content-type": b"audio/wav"}
    for number, value in enumerate((b"\x00\xff broken", b"", b"x" * 3_000_000)):
        message = Message("parakh.posts", 0, number, value, datetime.now(UTC), b"p\xff1", headers)
        await records.events.conclude([Conclusion(message, None, Refusal("not_json", "línea"))])
    publisher = OutboxPublisher(records.outbox, open_producer(broker), Duty(records.duties, "outbox"), topics=topics)
    while await publisher.publish_once():
        pass
    assert await records.outbox.oldest_unpublished() is None
    await publisher.stop()
    arrived = await taken(broker, [f"v{suffix}", f"d{suffix}"], 503)
    verdicts = arrived[f"v{suffix}"]
    read = [from_structured(KafkaMessage(dict(one.headers), None, one.value), JSONFormat()) for one in verdicts]
    assert [event.get_data() for event in read] == [{"n": number} for number in range(500)]
    assert {one.key for one in verdicts} == {"पोस्ट".encode()}
    letters = {one.value: one for one in arrived[f"d{suffix}"]}
    assert {b"\x00\xff broken", b""} < set(letters)
    assert letters[b"\x00\xff broken"].headers["parakh-dead-letter-reason"] == b"l?nea"
    (reference,) = (json.loads(value) for value in letters if value.startswith(b"{"))
    assert reference["type"] == "parakh.message.dead"
    await records.close()
