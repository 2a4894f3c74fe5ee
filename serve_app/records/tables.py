"""The SQL tables, in the order a post meets them: post -> job -> verdict -> outbox and index job; beside them keys,
audit, erasure. The tables of similarity search stand in `similarity_tables`, those of the event path and of streams
in `event_tables`, those of the review gate in `gate_tables`.

A post's content and a verdict are JSON in text columns (a NUL in a caption is legal JSON and illegal in PostgreSQL's
text and jsonb); what queries filter on stands in columns of its own. Erasing a post deletes its rows; the tombstone
in `erasures` and the line in `audit` stay.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC on both databases (SQLite has no time zones of its own)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the records")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {datetime: UtcDateTime(), str: Text(), bytes: LargeBinary()}  # noqa: RUF012


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows that fulfil `where`, on both databases."""
    return Index(name, *columns, unique=unique, postgresql_where=text(where), sqlite_where=text(where))


_POST_ID = String(128).with_variant(String(128, collation="C"), "postgresql")  # ordered by bytes, as an index orders
_DIGEST = String(64)
# literal in index and query alike: SQLite uses a partial index only where the query repeats its condition word for word
UNFINISHED = text("jobs.status IN ('pending', 'running')")
FAILED = text("jobs.status = 'failed'")
_SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows itself only for INTEGER keys


class PostRow(Table):
    """One revision of a post, as accepted."""

    __tablename__ = "posts"
    __table_args__ = (Index("ix_posts_author", "author_id", "created_at", "post_id"),)
    post_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[str] = mapped_column(_POST_ID)
    content_type: Mapped[str] = mapped_column(String(8))
    created_at: Mapped[datetime]
    received_at: Mapped[datetime]
    content: Mapped[str]  # the Post as JSON
    fingerprint: Mapped[str] = mapped_column(_DIGEST)  # SHA-256 of the Post and its media's identity
    media_sha256: Mapped[str | None] = mapped_column(_DIGEST, index=True)  # in the media store; null past retention
    media_url: Mapped[str | None] = mapped_column(Text())


class JobRow(Table):
    """The work one revision of a post still needs or has had; also the lease that keeps it with one worker."""

    __tablename__ = "jobs"
    __table_args__ = (
        ForeignKeyConstraint(["post_id", "revision"], ["posts.post_id", "posts.revision"], ondelete="CASCADE"),
        partial_index("ix_jobs_unfinished", "post_created_at", "created_at", where="status IN ('pending', 'running')"),
        partial_index("ix_jobs_failed", "finished_at", where="status = 'failed'"),
    )
    post_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(String(8))  # pending, running, done, failed
    created_at: Mapped[datetime]
    post_created_at: Mapped[datetime]  # the post's own: the oldest post is judged first
    available_at: Mapped[datetime]  # not claimed before
    lease: Mapped[str | None] = mapped_column(String(32))  # token of the claim that runs it
    lease_until: Mapped[datetime | None]
    attempts: Mapped[int]
    durable: Mapped[bool]  # the queue answers for it (202, or taken over from a dead server): tried until it is final
    error: Mapped[str | None] = mapped_column(Text())  # the API's error object as JSON, of the last attempt
    finished_at: Mapped[datetime | None]


class VerdictRow(Table):
    __tablename__ = "verdicts"
    __table_args__ = (
        ForeignKeyConstraint(["post_id", "revision"], ["posts.post_id", "posts.revision"], ondelete="CASCADE"),
    )
    post_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    policy_version: Mapped[str] = mapped_column(String(64), primary_key=True)
    action: Mapped[str] = mapped_column(String(16))
    category: Mapped[str | None] = mapped_column(String(32))
    nsfw_score: Mapped[float]
    created_at: Mapped[datetime]  # of the post
    decided_at: Mapped[datetime] = mapped_column(index=True)
    indexed: Mapped[bool]  # the index was told of the post
    reused: Mapped[bool] = mapped_column(index=True)  # no encoder ran: the verdict of an exact re-upload's original
    body: Mapped[str]  # the Verdict as JSON


class IdempotencyRow(Table):
    """An Idempotency-Key and what it was used for; in progress for as long as the post's job is running."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        ForeignKeyConstraint(["post_id", "revision"], ["posts.post_id", "posts.revision"], ondelete="CASCADE"),
        Index("ix_idempotency_keys_post", "post_id", "revision"),
    )
    owner: Mapped[str] = mapped_column(String(32), primary_key=True)  # API key id; empty with auth off
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(_DIGEST)
    post_id: Mapped[str] = mapped_column(_POST_ID)
    revision: Mapped[int]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    completed_at: Mapped[datetime | None]


class OutboxRow(Table):
    """An event that must leave: written with its cause in one transaction, published later, in order of `id`."""

    __tablename__ = "outbox"
    __table_args__ = (
        partial_index("ix_outbox_waiting", "id", where="published_at IS NULL"),
        partial_index("ix_outbox_published", "published_at", where="published_at IS NOT NULL"),
    )
    id: Mapped[int] = mapped_column(_SEQUENCE, primary_key=True, autoincrement=True)
    event_id: Mapped[str] = mapped_column(String(36), unique=True)
    topic: Mapped[str] = mapped_column(String(64))
    type: Mapped[str] = mapped_column(String(64))  # of the CloudEvent
    key: Mapped[str] = mapped_column(_POST_ID, index=True)  # id of the post or stream: one partition, one order
    payload: Mapped[str]  # JSON; references, never evidence
    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime | None]  # not published before
    last_error: Mapped[str | None] = mapped_column(Text())
    dead_letter_id: Mapped[str | None] = mapped_column(String(36))  # the message to publish in place of the payload


class ErasureRow(Table):
    """Tombstone of an erased post: its id is never taken again."""

    __tablename__ = "erasures"
    post_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    erased_at: Mapped[datetime]


class MediaGarbageRow(Table):
    """A file that no post may need any more and that may still lie in the media store."""

    __tablename__ = "media_garbage"
    sha256: Mapped[str] = mapped_column(_DIGEST, primary_key=True)
    since: Mapped[datetime]
    deleting_until: Mapped[datetime | None]  # a sweep is deleting the file: no post may be accepted with it till then


class ApiKeyRow(Table):
    __tablename__ = "api_keys"
    key_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    secret_sha256: Mapped[str] = mapped_column(_DIGEST)
    scopes: Mapped[str] = mapped_column(String(64))  # sorted, separated by spaces
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditRow(Table):
    """Append-only: triggers of the migration refuse UPDATE and DELETE."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(_SEQUENCE, primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(128))  # API key id, or who ran the command
    action: Mapped[str] = mapped_column(String(64))  # for instance post.erase, key.create
    subject: Mapped[str] = mapped_column(String(128), index=True)
    detail: Mapped[str]  # JSON


__all__ = [
    "ApiKeyRow",
    "AuditRow",
    "ErasureRow",
    "IdempotencyRow",
    "JobRow",
    "MediaGarbageRow",
    "OutboxRow",
    "PostRow",
    "Table",
    "UtcDateTime",
    "VerdictRow",
]
