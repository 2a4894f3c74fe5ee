"""Similarity search: index jobs, references and their matches, hash lists, legal holds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ITEM = sa.String(length=160).with_variant(sa.String(length=160, collation="C"), "postgresql")
_POST = sa.String(length=128).with_variant(sa.String(length=128, collation="C"), "postgresql")
_AT = sa.DateTime(timezone=True)
_TABLES = (
    "reference_matches",
    "reference_works",
    "hash_entries",
    "hash_lists",
    "index_jobs",
    "legal_holds",
    "external_items",
    "bank_changes",
)


def upgrade() -> None:
    op.create_table(
        "index_jobs",
        sa.Column("bank", sa.String(length=16), nullable=False),
        sa.Column("item_id", _ITEM, nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("op", sa.String(length=8), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("source_id", _ITEM, nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("available_at", _AT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("bank", "item_id", name=op.f("pk_index_jobs")),
    )
    op.create_index("ix_index_jobs_queue", "index_jobs", ["available_at"], unique=False)
    op.create_table(
        "reference_works",
        sa.Column("reference_id", _ITEM, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("policy", sa.String(length=16), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("changed_at", _AT, nullable=False),
        sa.Column("quarantined_at", _AT, nullable=True),
        sa.Column("quarantine_reason", sa.Text(), nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("reference_id", name=op.f("pk_reference_works")),
    )
    op.create_index(op.f("ix_reference_works_owner"), "reference_works", ["owner"], unique=False)
    op.create_table(
        "reference_matches",
        sa.Column("reference_id", _ITEM, nullable=False),
        sa.Column("post_id", _POST, nullable=False),
        sa.Column("matched_at", _AT, nullable=False),
        sa.ForeignKeyConstraint(
            ["reference_id"],
            ["reference_works.reference_id"],
            name=op.f("fk_reference_matches_reference_works"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("reference_id", "post_id", name=op.f("pk_reference_matches")),
    )
    op.create_index(op.f("ix_reference_matches_matched_at"), "reference_matches", ["matched_at"], unique=False)
    op.create_table(
        "hash_lists",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("changed_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_hash_lists")),
    )
    op.create_table(
        "hash_entries",
        sa.Column("list_name", sa.String(length=64), nullable=False),
        sa.Column("algorithm", sa.String(length=8), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["list_name"], ["hash_lists.name"], name=op.f("fk_hash_entries_hash_lists"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("list_name", "algorithm", "digest", name=op.f("pk_hash_entries")),
    )
    op.create_index("ix_hash_entries_lookup", "hash_entries", ["algorithm", "digest"], unique=False)
    op.create_table(
        "legal_holds",
        sa.Column("post_id", _POST, nullable=False),
        sa.Column("media_sha256", sa.String(length=64), nullable=True),
        sa.Column("since", _AT, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("post_id", name=op.f("pk_legal_holds")),
    )
    op.create_index(op.f("ix_legal_holds_media_sha256"), "legal_holds", ["media_sha256"], unique=False)
    op.create_table(
        "external_items",
        sa.Column("bank", sa.String(length=16), nullable=False),
        sa.Column("item_id", _ITEM, nullable=False),
        sa.PrimaryKeyConstraint("bank", "item_id", name=op.f("pk_external_items")),
    )
    op.create_table(
        "bank_changes",
        sa.Column("bank", sa.String(length=16), nullable=False),
        sa.Column("changed_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("bank", name=op.f("pk_bank_changes")),
    )


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)
