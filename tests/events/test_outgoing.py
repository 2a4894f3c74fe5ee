"""What leaves: the same bytes for everybody, and of a dead letter what came."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

from cloudevents.core.bindings.kafka import KafkaMessage, from_structured
from cloudevents.core.formats.json import JSONFormat

from serve_app.events.outgoing import cloud_event, original, record
from serve_app.events.settings import TopicNames
from serve_app.records.outbox import DEAD_LETTERS
from serve_app.records.values import DeadLetter, OutboxEvent

TOPICS = TopicNames(renamed={"parakh.verdicts": "prod.verdicts"}, dead_letters="prod.dead")
EVENT = OutboxEvent(
    id=7,
    event_id="11111111-1111-1111-1111-111111111111",
    topic="parakh.verdicts",
    type="parakh.post.judged",
    key="पोस्ट-1",
    payload={"post_id": "पोस्ट-1", "nsfw_score": 0.25},
    created_at=datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC),
)
LETTER = DeadLetter(
    id="22222222-2222-2222-2222-222222222222",
    topic="parakh.posts",
    partition=3,
    offset=99,
    key=b"\xff\x00key",
    headers={"content-type": b"text/plain", "trace": b"\x00\xff", "parakh-dead-letter-code": b"older"},
    value=b"\x00 not JSON \xff",
    value_sha256=None,
    size=12,
    code="not_json",
    reason="línea 1\r\nx-evil: 1\x00" + "y" * 5000,
    event=None,
    at=datetime(2026, 11, 21, tzinfo=UTC),
    attempts=0,
    replayed_at=None,
)
DEAD = replace(EVENT, topic=DEAD_LETTERS, type="parakh.message.dead", key=LETTER.id, dead_letter=LETTER)


def test_an_event_is_a_cloud_event_that_the_package_reads() -> None:
    sent = record(EVENT, TOPICS)
    assert (sent.topic, sent.key, sent.id) == ("prod.verdicts", "पोस्ट-1".encode(), EVENT.event_id)
    assert sent.headers == {"content-type": b"application/cloudevents+json; charset=UTF-8"}
    read = from_structured(KafkaMessage(dict(sent.headers), None, sent.value), JSONFormat())
    assert (read.get_id(), read.get_source(), read.get_type()) == (EVENT.event_id, "/parakh", "parakh.post.judged")
    assert (read.get_subject(), read.get_time()) == ("पोस्ट-1", EVENT.created_at)
    assert read.get_data() == EVENT.payload


def test_the_same_row_gives_the_same_bytes() -> None:
    assert cloud_event(EVENT) == cloud_event(replace(EVENT, attempts=5)) == record(EVENT, TOPICS).value


def test_a_dead_letter_leaves_as_it_came_and_says_why_in_ascii() -> None:
    sent = original(DEAD, LETTER, b"\x00 not JSON \xff", TOPICS)
    assert (sent.topic, sent.key, sent.value) == ("prod.dead", LETTER.key, LETTER.value)
    assert sent.headers["trace"] == b"\x00\xff"
    assert sent.headers["parakh-dead-letter-id"] == LETTER.id.encode()
    assert sent.headers["parakh-dead-letter-code"] == b"not_json"
    reason = sent.headers["parakh-dead-letter-reason"].decode("ascii")
    assert reason.startswith("l?nea 1??x-evil: 1?yyy")
    assert len(reason) == 1000
    place = [sent.headers[f"parakh-dead-letter-{name}"] for name in ("topic", "partition", "offset")]
    assert place == [b"parakh.posts", b"3", b"99"]


def test_an_event_that_refers_to_a_dead_letter() -> None:
    sent = record(replace(DEAD, payload={"id": LETTER.id, "code": "not_json"}), TOPICS)
    event = json.loads(sent.value)
    assert sent.topic == "prod.dead"
    assert (event["type"], event["subject"]) == ("parakh.message.dead", LETTER.id)
    assert event["data"] == {"id": LETTER.id, "code": "not_json"}
