"""The review gate: milestones to decide, decisions, the moderators' queue, outcomes; posts are found by their author.

The index on `posts` is made inside the migration's transaction: on a large PostgreSQL table make it beforehand with
CREATE INDEX CONCURRENTLY ix_posts_author ON posts (author_id, created_at, post_id).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.String(length=128).with_variant(sa.String(length=128, collation="C"), "postgresql")
_AT = sa.DateTime(timezone=True)
_TAG = sa.String(length=64)
_TABLES = ("gate_state", "outcomes", "reviews", "gate_decisions", "gate_jobs")


def upgrade() -> None:
    op.create_index("ix_posts_author", "posts", ["author_id", "created_at", "post_id"], if_not_exists=True)
    op.create_table(
        "gate_jobs",
        sa.Column("post_id", _ID, nullable=False),
        sa.Column("milestone", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("views", sa.BigInteger(), nullable=False),
        sa.Column("reached_at", _AT, nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("available_at", _AT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("post_id", "milestone", name=op.f("pk_gate_jobs")),
    )
    op.create_index(op.f("ix_gate_jobs_available_at"), "gate_jobs", ["available_at"])
    _decisions()
    _reviews()
    _outcomes()
    op.create_table(
        "gate_state",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_gate_state")),
    )


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)
    op.drop_index("ix_posts_author", "posts")


def _decisions() -> None:
    op.create_table(
        "gate_decisions",
        sa.Column("post_id", _ID, nullable=False),
        sa.Column("milestone", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("author_id", _ID, nullable=False),
        sa.Column("language", _TAG, nullable=True),
        sa.Column("content_type", sa.String(length=8), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("reached_at", _AT, nullable=False),
        sa.Column("views", sa.BigInteger(), nullable=False),
        sa.Column("nsfw_score", sa.Double(), nullable=False),
        sa.Column("category_scores", sa.Text(), nullable=False),
        sa.Column("verdict_action", sa.String(length=16), nullable=False),
        sa.Column("history_status", sa.String(length=8), nullable=False),
        sa.Column("author_posts", sa.Integer(), nullable=True),
        sa.Column("author_discards", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(length=8), nullable=False),
        sa.Column("audit", sa.Boolean(), nullable=False),
        sa.Column("inclusion_probability", sa.Double(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("stratum", sa.String(length=96), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=False),
        sa.Column("calibration", sa.String(length=128), nullable=False),
        sa.Column("policy_version", sa.String(length=64), nullable=False),
        sa.Column("contributions", sa.Text(), nullable=False),
        sa.Column("decided_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("post_id", "milestone", name=op.f("pk_gate_decisions")),
    )
    op.create_index("ix_gate_decisions_decided", "gate_decisions", ["milestone", "decided_at"])


def _reviews() -> None:
    op.create_table(
        "reviews",
        sa.Column("review_id", sa.String(length=32), nullable=False),
        sa.Column("post_id", _ID, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("author_id", _ID, nullable=False),
        sa.Column("language", _TAG, nullable=True),
        sa.Column("primary_language", sa.String(length=8), nullable=False),
        sa.Column("content_type", sa.String(length=8), nullable=False),
        sa.Column("post_created_at", _AT, nullable=False),
        sa.Column("nsfw_score", sa.Double(), nullable=False),
        sa.Column("sources", sa.String(length=64), nullable=False),
        sa.Column("milestone", sa.BigInteger(), nullable=True),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("due_at", _AT, nullable=False),
        sa.Column("claimed_by", sa.String(length=128), nullable=True),
        sa.Column("claimed_until", _AT, nullable=True),
        sa.Column("decided_at", _AT, nullable=True),
        sa.Column("outcome", sa.String(length=8), nullable=True),
        sa.Column("category", sa.String(length=32), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("review_id", name=op.f("pk_reviews")),
    )
    _partial_index("uq_reviews_open", "reviews", ["post_id"], "decided_at IS NULL", unique=True)
    _partial_index("ix_reviews_due", "reviews", ["due_at"], "decided_at IS NULL")
    _partial_index("ix_reviews_language", "reviews", ["primary_language", "due_at"], "decided_at IS NULL")
    op.create_index("ix_reviews_post", "reviews", ["post_id"])


def _outcomes() -> None:
    op.create_table(
        "outcomes",
        sa.Column("post_id", _ID, nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("review_id", sa.String(length=32), nullable=False),
        sa.Column("author_id", _ID, nullable=False),
        sa.Column("language", _TAG, nullable=True),
        sa.Column("content_type", sa.String(length=8), nullable=False),
        sa.Column("post_created_at", _AT, nullable=False),
        sa.Column("nsfw_score", sa.Double(), nullable=False),
        sa.Column("milestone", sa.BigInteger(), nullable=True),
        sa.Column("sources", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=8), nullable=False),
        sa.Column("category", sa.String(length=32), nullable=True),
        sa.Column("reviewer", sa.String(length=128), nullable=False),
        sa.Column("decided_at", _AT, nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("post_id", "revision", name=op.f("pk_outcomes")),
    )
    columns = ["author_id", "post_created_at", "post_id"]
    _partial_index("ix_outcomes_author", "outcomes", columns, "outcome = 'discard'")
    op.create_index("ix_outcomes_decided_at", "outcomes", ["decided_at"])


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, postgresql_where=condition, sqlite_where=condition)
