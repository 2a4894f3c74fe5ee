"""What goes out: a row of the outbox as the bytes that broker and webhooks both get.

An event is CloudEvents 1.0 JSON in structured mode; the same row always gives the same bytes and the same id.
A dead letter goes to the broker as it came, key and headers too, with headers that say why; webhooks, and a broker
that finds it too large, get an event that refers to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from serve_app.events.brokers.base import OutRecord
from serve_app.events.cloud_events import STRUCTURED
from serve_app.events.settings import TopicNames
from serve_app.records.outbox import DEAD_LETTERS
from serve_app.records.values import DeadLetter, OutboxEvent

SOURCE = "/parakh"
MAX_HEADER_CHARS = 1000
_FORMAT = JSONFormat()
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class Outgoing(Protocol):
    """What an outbox row and a webhook's delivery have in common."""

    @property
    def event_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def payload(self) -> Mapping[str, Any]: ...
    @property
    def created_at(self) -> datetime: ...


def cloud_event(event: Outgoing) -> bytes:
    """`id` is the receiver's key against duplicates; `subject` the post, stream, reference or dead letter."""
    attributes = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": SOURCE,
        "type": event.type,
        "subject": event.key,
        "time": event.created_at,
        "datacontenttype": "application/json",
    }
    return _FORMAT.write(CloudEvent(attributes, dict(event.payload)))


def record(event: OutboxEvent, topics: TopicNames) -> OutRecord:
    """The event itself; of a dead letter the event that refers to it."""
    return OutRecord(
        topic=topic_of(event, topics),
        key=event.key.encode(),
        value=cloud_event(event),
        headers={"content-type": f"{STRUCTURED}; charset=UTF-8".encode()},
        id=event.event_id,
    )


def original(event: OutboxEvent, letter: DeadLetter, value: bytes, topics: TopicNames) -> OutRecord:
    """The message of a dead letter as it came."""
    why = {
        "parakh-dead-letter-id": letter.id,
        "parakh-dead-letter-code": letter.code,
        "parakh-dead-letter-reason": letter.reason,
        "parakh-dead-letter-topic": letter.topic,
        "parakh-dead-letter-partition": str(letter.partition),
        "parakh-dead-letter-offset": str(letter.offset),
    }
    headers = {**letter.headers, **{name: _header(text) for name, text in why.items()}}
    return OutRecord(topic_of(event, topics), letter.key, value, headers, event.event_id)


def topic_of(event: OutboxEvent, topics: TopicNames) -> str:
    return topics.dead_letters if event.topic == DEAD_LETTERS else topics.outgoing(event.topic)


def _header(text: str) -> bytes:
    """Printable ASCII: what every client can show and no header can be broken with."""
    return _UNPRINTABLE.sub("?", text)[:MAX_HEADER_CHARS].encode("ascii")
