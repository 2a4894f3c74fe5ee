"""The SQL tables of the event path and of streams: which events were worked off, what became of clips and streams, the
messages that cannot be worked off, and how far events got on their way out.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from serve_app.records.tables import _DIGEST, _POST_ID, Table, partial_index

SUBJECT = String(136)  # post:ID, stream:ID, or any:ID where only an id is known
TOPIC = String(255)  # Kafka's longest has 249 characters


class ConsumedEventRow(Table):
    """An event that was worked off: bringing it again changes nothing, unless it ended as a dead letter."""

    __tablename__ = "consumed_events"
    key: Mapped[str] = mapped_column(_DIGEST, primary_key=True)  # SHA-256 of source, NUL, id
    topic: Mapped[str] = mapped_column(TOPIC)
    outcome: Mapped[str] = mapped_column(String(16))  # done, duplicate, erased, dead
    at: Mapped[datetime] = mapped_column(index=True)


class StreamRow(Table):
    """What the clips of one stream add up to."""

    __tablename__ = "streams"
    __table_args__ = (Index("ix_streams_action", "action", "updated_at"),)
    stream_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    state: Mapped[str]  # the StreamState as JSON
    action: Mapped[str] = mapped_column(String(16))
    language: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(index=True)


class ClipRow(Table):
    __tablename__ = "clips"
    __table_args__ = (
        partial_index("ix_clips_scores", "nsfw_score", "decided_at", where="nsfw_score IS NOT NULL"),
        Index("ix_clips_decided_at", "decided_at"),
    )
    stream_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    start_ms: Mapped[int] = mapped_column(BigInteger(), primary_key=True, autoincrement=False)
    created_at: Mapped[datetime]
    decided_at: Mapped[datetime]
    nsfw_score: Mapped[float | None]
    sound_sha256: Mapped[str] = mapped_column(_DIGEST)
    skipped: Mapped[str | None] = mapped_column(String(16))
    body: Mapped[str]  # the ClipResult as JSON


class StreamErasureRow(Table):
    """Tombstone of an erased stream: its id is never taken again."""

    __tablename__ = "stream_erasures"
    stream_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    erased_at: Mapped[datetime]


class ViewCountRow(Table):
    """The highest count of a post that was told."""

    __tablename__ = "view_counts"
    post_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    views: Mapped[int] = mapped_column(BigInteger())
    at: Mapped[datetime]
    milestones: Mapped[str]  # JSON list of those that were announced


class DeadLetterRow(Table):
    """A message that cannot be worked off, as it came."""

    __tablename__ = "dead_letters"
    __table_args__ = (
        Index("ix_dead_letters_replayed_at", "replayed_at", "at"),
        Index("ix_dead_letters_code", "code", "at"),
    )
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    topic: Mapped[str] = mapped_column(TOPIC)
    partition: Mapped[int]
    offset: Mapped[int] = mapped_column(BigInteger())
    key: Mapped[bytes | None] = mapped_column(LargeBinary())
    headers: Mapped[str]  # JSON object; values in base64
    value: Mapped[bytes | None] = mapped_column(LargeBinary())
    value_sha256: Mapped[str | None] = mapped_column(_DIGEST, index=True)  # in the media store: too large for here
    size: Mapped[int]  # bytes of the value
    subject: Mapped[str | None] = mapped_column(SUBJECT, index=True)  # what it is about, as far as told
    code: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str]
    event_source: Mapped[str | None] = mapped_column(Text())
    event_id: Mapped[str | None] = mapped_column(Text())
    at: Mapped[datetime] = mapped_column(index=True)
    attempts: Mapped[int]  # how often it was replayed and dead again
    replayed_at: Mapped[datetime | None]


class WebhookDeliveryRow(Table):
    """One event on its way to one endpoint; the body is the outbox row's."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        partial_index("ix_webhook_deliveries_due", "next_attempt_at", where="done_at IS NULL"),
        partial_index("ix_webhook_deliveries_done", "done_at", where="done_at IS NOT NULL"),
    )
    event_id: Mapped[str] = mapped_column(
        String(36), ForeignKey("outbox.event_id", ondelete="CASCADE"), primary_key=True
    )
    endpoint: Mapped[str] = mapped_column(String(128), primary_key=True)  # its name in the settings
    attempts: Mapped[int]
    created_at: Mapped[datetime]
    next_attempt_at: Mapped[datetime]
    last_status: Mapped[int | None]  # HTTP; None where there was no answer
    last_error: Mapped[str | None] = mapped_column(Text())
    delivered: Mapped[bool]  # False with `done_at`: given up
    done_at: Mapped[datetime | None]


class DutyRow(Table):
    """Which process does what only one may do, and until when."""

    __tablename__ = "duties"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    token: Mapped[str] = mapped_column(String(64))
    until: Mapped[datetime]


__all__ = [
    "ClipRow",
    "ConsumedEventRow",
    "DeadLetterRow",
    "DutyRow",
    "StreamErasureRow",
    "StreamRow",
    "ViewCountRow",
    "WebhookDeliveryRow",
]
