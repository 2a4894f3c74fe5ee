"""What goes into the records and comes out: plain frozen values, no sessions and no rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from deployments.similarity.content import Content
from serve_app.events.message import Message
from serve_app.posts import Post, Verdict
from serve_app.streams.values import ClipResult

_ID = re.compile(r"[^\s/\x00-\x1f\x7f\ud800-\udfff]{1,128}")  # as `serve_app.posts.Id`
JobStatus = Literal["pending", "running", "done", "failed"]


@dataclass(frozen=True)
class Submission:
    """A post at the door: what it says, where its media lies, and who brings it under which Idempotency-Key."""

    post: Post
    fingerprint: str  # SHA-256 of the post and its media's identity
    media_sha256: str | None = None  # already in the media store
    media_url: str | None = None
    owner: str = ""  # API key id; empty with auth off
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Lease:
    """The right to work on one revision of a post until `until`; `token` tells this claim from every other."""

    post: Post
    token: str
    until: datetime
    attempts: int  # this one included
    media_sha256: str | None
    media_url: str | None


@dataclass(frozen=True)
class Ticket:
    """What acceptance found: a verdict, a lease to earn one, or a job that waits or runs elsewhere."""

    state: Literal["decided", "leased", "pending", "running"]
    replayed: bool  # this content had been accepted before
    verdict: Verdict | None = None
    lease: Lease | None = None


@dataclass(frozen=True)
class PostState:
    """Where one revision of a post stands."""

    post_id: str
    revision: int
    status: JobStatus
    received_at: datetime
    attempts: int
    lease_expired: bool  # running, but its worker gave no sign of life
    error: Mapping[str, Any] | None  # the API's error object: of a failed job, or of the last attempt
    verdict: Verdict | None


@dataclass(frozen=True)
class EventId:
    """CloudEvents 1.0: producers make `source` + `id` unique for each distinct event."""

    source: str
    id: str


@dataclass(frozen=True)
class DeadLetter:
    """A message that could not be worked off, as it came, and why."""

    id: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: Mapping[str, bytes]
    value: bytes | None  # None: too large for the database; the media store has it under `value_sha256`
    value_sha256: str | None
    size: int
    code: str
    reason: str
    event: EventId | None  # None: it could not be read
    at: datetime
    attempts: int  # how often it was replayed and dead again
    replayed_at: datetime | None


@dataclass(frozen=True)
class OutboxEvent:
    id: int
    event_id: str  # the same however often it is published
    topic: str
    type: str  # of the CloudEvent
    key: str
    payload: Mapping[str, Any]
    created_at: datetime
    attempts: int = 0  # failed ones
    dead_letter: DeadLetter | None = None  # its message is what leaves, in place of a CloudEvent


@dataclass(frozen=True)
class WebhookDelivery:
    """An event for one endpoint."""

    event_id: str
    endpoint: str
    topic: str
    type: str
    key: str
    payload: Mapping[str, Any]
    created_at: datetime  # of the event
    attempts: int  # failed ones


@dataclass(frozen=True)
class AuditEntry:
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class QueueState:
    """For gauges: how many jobs wait or run, and since when the oldest of them does."""

    unfinished: int
    failed: int
    oldest_unfinished: datetime | None
    oldest_post: datetime | None = None  # when the oldest post that waits for its verdict was published


@dataclass(frozen=True)
class JudgedPost:
    """A post that the event path judged: accepted and concluded in one transaction."""

    submission: Submission  # its media lies in the store already
    verdict: Verdict
    content: Content | None = None  # what the index is told; None: nothing
    copy_of: str | None = None
    media: bytes | None = None  # what lies in the store, to be put again where a sweep was faster than the commit


@dataclass(frozen=True)
class JudgedClip:
    result: ClipResult


@dataclass(frozen=True)
class ViewCount:
    """How often a post had been seen at `at`; only a higher count than the stored one changes anything."""

    post_id: str
    views: int
    at: datetime


@dataclass(frozen=True)
class Refusal:
    """Why an event can never be worked off: its message becomes a dead letter."""

    code: str
    reason: str


@dataclass(frozen=True)
class Subject:
    """What a message is about: erasing it must reach whatever was kept of the message."""

    kind: Literal["post", "stream"]
    id: str


def subject_of(kind: Literal["post", "stream"], id_: object) -> Subject | None:
    """None for what is no id of a post or stream: nothing of that name can ever be erased."""
    return Subject(kind, id_) if isinstance(id_, str) and _ID.fullmatch(id_) else None


@dataclass(frozen=True)
class Conclusion:
    """What became of one message. `event` is None where it could not be read, `subject` where the work names it or
    nobody could tell."""

    message: Message
    event: EventId | None
    work: JudgedPost | JudgedClip | ViewCount | Refusal
    subject: Subject | None = None


Concluded = Literal["done", "duplicate", "erased", "dead"]
