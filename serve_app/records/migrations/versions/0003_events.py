"""The event path and streams: consumed events, clips, stream states, view counts, dead letters, webhook deliveries,
duties; events get their type, and jobs the age of their post.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.String(length=128).with_variant(sa.String(length=128, collation="C"), "postgresql")
_DIGEST = sa.String(length=64)
_TOPIC = sa.String(length=255)
_AT = sa.DateTime(timezone=True)
_LONG_AGO = sa.text("'1970-01-01 00:00:00.000000'")
_TYPES = {
    "parakh.verdicts": "parakh.post.judged",
    "parakh.erasures": "parakh.post.erased",
    "parakh.references": "parakh.reference.quarantined",
}
_TABLES = (
    "webhook_deliveries",
    "duties",
    "dead_letters",
    "view_counts",
    "stream_erasures",
    "clips",
    "streams",
    "consumed_events",
)


def upgrade() -> None:
    _outbox_with_types()
    _jobs_by_age_of_post()
    op.create_table(
        "consumed_events",
        sa.Column("key", _DIGEST, nullable=False),
        sa.Column("topic", _TOPIC, nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_consumed_events")),
    )
    op.create_index(op.f("ix_consumed_events_at"), "consumed_events", ["at"])
    _streams()
    op.create_table(
        "view_counts",
        sa.Column("post_id", _ID, nullable=False),
        sa.Column("views", sa.BigInteger(), nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.Column("milestones", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("post_id", name=op.f("pk_view_counts")),
    )
    _dead_letters()
    op.create_table(
        "duties",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("until", _AT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duties")),
    )
    _webhook_deliveries()


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)
    op.drop_index("ix_jobs_failed", "jobs")
    op.drop_index("ix_jobs_unfinished", "jobs")
    op.drop_column("jobs", "post_created_at")
    op.create_index("ix_jobs_queue", "jobs", ["status", "available_at", "created_at"])
    op.execute("DELETE FROM outbox WHERE dead_letter_id IS NOT NULL")  # their messages went with `dead_letters`
    op.drop_index("ix_outbox_published", "outbox")
    op.drop_index("ix_outbox_waiting", "outbox")
    for column in ("type", "next_attempt_at", "last_error", "dead_letter_id"):
        op.drop_column("outbox", column)
    op.create_index("ix_outbox_unpublished", "outbox", ["published_at", "id"])


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def _outbox_with_types() -> None:
    op.add_column("outbox", sa.Column("type", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("outbox", sa.Column("next_attempt_at", _AT, nullable=True))
    op.add_column("outbox", sa.Column("last_error", sa.Text(), nullable=True))
    op.add_column("outbox", sa.Column("dead_letter_id", sa.String(length=36), nullable=True))
    outbox = sa.table("outbox", sa.column("topic", sa.String()), sa.column("type", sa.String()))
    for topic, type_ in _TYPES.items():
        op.execute(outbox.update().where(outbox.c.topic == topic).values(type=type_))
    op.drop_index("ix_outbox_unpublished", "outbox")
    _partial_index("ix_outbox_waiting", "outbox", ["id"], "published_at IS NULL")
    _partial_index("ix_outbox_published", "outbox", ["published_at"], "published_at IS NOT NULL")
    _drop_default("outbox", "type")


def _jobs_by_age_of_post() -> None:
    op.add_column("jobs", sa.Column("post_created_at", _AT, nullable=False, server_default=_LONG_AGO))
    op.execute(
        "UPDATE jobs SET post_created_at = (SELECT posts.created_at FROM posts "
        "WHERE posts.post_id = jobs.post_id AND posts.revision = jobs.revision)"
    )
    op.drop_index("ix_jobs_queue", "jobs")
    columns = ["post_created_at", "created_at"]
    _partial_index("ix_jobs_unfinished", "jobs", columns, "status IN ('pending', 'running')")
    _partial_index("ix_jobs_failed", "jobs", ["finished_at"], "status = 'failed'")
    _drop_default("jobs", "post_created_at")


def _drop_default(table: str, column: str) -> None:
    if op.get_bind().dialect.name == "postgresql":  # SQLite could only copy the whole table; there it stays, unused
        op.alter_column(table, column, server_default=None)


def _streams() -> None:
    op.create_table(
        "streams",
        sa.Column("stream_id", _ID, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("language", sa.String(length=64), nullable=True),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("updated_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("stream_id", name=op.f("pk_streams")),
    )
    op.create_index("ix_streams_action", "streams", ["action", "updated_at"])
    op.create_index(op.f("ix_streams_updated_at"), "streams", ["updated_at"])
    op.create_table(
        "clips",
        sa.Column("stream_id", _ID, nullable=False),
        sa.Column("start_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("decided_at", _AT, nullable=False),
        sa.Column("nsfw_score", sa.Double(), nullable=True),
        sa.Column("sound_sha256", _DIGEST, nullable=False),
        sa.Column("skipped", sa.String(length=16), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "start_ms", name=op.f("pk_clips")),
    )
    _partial_index("ix_clips_scores", "clips", ["nsfw_score", "decided_at"], "nsfw_score IS NOT NULL")
    op.create_index("ix_clips_decided_at", "clips", ["decided_at"])
    op.create_table(
        "stream_erasures",
        sa.Column("stream_id", _ID, nullable=False),
        sa.Column("erased_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("stream_id", name=op.f("pk_stream_erasures")),
    )


def _dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("topic", _TOPIC, nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=True),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("value_sha256", _DIGEST, nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("subject", sa.String(length=136), nullable=True),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("event_source", sa.Text(), nullable=True),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("at", _AT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("replayed_at", _AT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
    )
    op.create_index("ix_dead_letters_replayed_at", "dead_letters", ["replayed_at", "at"])
    op.create_index("ix_dead_letters_code", "dead_letters", ["code", "at"])
    for column in ("value_sha256", "subject", "at"):
        op.create_index(op.f(f"ix_dead_letters_{column}"), "dead_letters", [column])


def _webhook_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("endpoint", sa.String(length=128), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("next_attempt_at", _AT, nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("delivered", sa.Boolean(), nullable=False),
        sa.Column("done_at", _AT, nullable=True),
        sa.ForeignKeyConstraint(
            ["event_id"], ["outbox.event_id"], name=op.f("fk_webhook_deliveries_outbox"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("event_id", "endpoint", name=op.f("pk_webhook_deliveries")),
    )
    _partial_index("ix_webhook_deliveries_due", "webhook_deliveries", ["next_attempt_at"], "done_at IS NULL")
    _partial_index("ix_webhook_deliveries_done", "webhook_deliveries", ["done_at"], "done_at IS NOT NULL")
