"""The SQL tables behind similarity search: what the index is still to be told, the reference bank, hash lists,
evidence under legal hold. The index itself is a cache of what stands here and in the posts.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from serve_app.records.tables import _DIGEST, _POST_ID, Table

ITEM_ID = String(160).with_variant(String(160, collation="C"), "postgresql")  # of a post, a reference or a list entry


class IndexJobRow(Table):
    """The last word on one item of the index: taken in, copied or let go. A later word replaces it."""

    __tablename__ = "index_jobs"
    __table_args__ = (Index("ix_index_jobs_queue", "available_at"),)
    bank: Mapped[str] = mapped_column(String(16), primary_key=True)
    item_id: Mapped[str] = mapped_column(ITEM_ID, primary_key=True)
    token: Mapped[str] = mapped_column(String(32))  # of this word: what a worker did for an earlier one does not count
    op: Mapped[str] = mapped_column(String(8))  # index, copy, remove
    revision: Mapped[int]
    source_id: Mapped[str | None] = mapped_column(ITEM_ID)  # copy: whose vectors
    content: Mapped[bytes | None] = mapped_column(LargeBinary())  # index, copy: Content as bytes
    created_at: Mapped[datetime]
    available_at: Mapped[datetime]  # not claimed before; while a worker has it, when it counts as dead
    attempts: Mapped[int]
    error: Mapped[str | None] = mapped_column(Text())


class ReferenceRow(Table):
    """A work of the reference bank, with its vectors, so that it can be switched on again without its media."""

    __tablename__ = "reference_works"
    reference_id: Mapped[str] = mapped_column(ITEM_ID, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))  # the bank: protected or negative
    owner: Mapped[str] = mapped_column(String(128), index=True)
    policy: Mapped[str | None] = mapped_column(String(16))  # allow, review or block
    title: Mapped[str | None] = mapped_column(Text())
    enabled: Mapped[bool]
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    quarantined_at: Mapped[datetime | None]
    quarantine_reason: Mapped[str | None] = mapped_column(Text())
    content: Mapped[bytes]


class ReferenceMatchRow(Table):
    """Which post a reference matched: counted to find a reference that matches too much."""

    __tablename__ = "reference_matches"
    reference_id: Mapped[str] = mapped_column(
        ITEM_ID, ForeignKey("reference_works.reference_id", ondelete="CASCADE"), primary_key=True
    )
    post_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    matched_at: Mapped[datetime] = mapped_column(index=True)


class HashListRow(Table):
    __tablename__ = "hash_lists"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]


class HashEntryRow(Table):
    """One digest or signature of one list."""

    __tablename__ = "hash_entries"
    __table_args__ = (Index("ix_hash_entries_lookup", "algorithm", "digest"),)
    list_name: Mapped[str] = mapped_column(
        String(64), ForeignKey("hash_lists.name", ondelete="CASCADE"), primary_key=True
    )
    algorithm: Mapped[str] = mapped_column(String(8), primary_key=True)  # md5, sha1, sha256, pdq
    digest: Mapped[str] = mapped_column(_DIGEST, primary_key=True)  # hexadecimal, lower case
    labels: Mapped[str]  # JSON list


class LegalHoldRow(Table):
    """Evidence: the post is not erased and its media is not deleted while this stands."""

    __tablename__ = "legal_holds"
    post_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    media_sha256: Mapped[str | None] = mapped_column(_DIGEST, index=True)
    since: Mapped[datetime]
    reason: Mapped[str]


class ExternalItemRow(Table):
    """An item of the index that stands for no post, reference or list entry of ours."""

    __tablename__ = "external_items"
    bank: Mapped[str] = mapped_column(String(16), primary_key=True)
    item_id: Mapped[str] = mapped_column(ITEM_ID, primary_key=True)


class BankChangeRow(Table):
    """When references or hash lists last changed: an older verdict says nothing of what they hold now."""

    __tablename__ = "bank_changes"
    bank: Mapped[str] = mapped_column(String(16), primary_key=True)
    changed_at: Mapped[datetime]


__all__ = [
    "BankChangeRow",
    "ExternalItemRow",
    "HashEntryRow",
    "HashListRow",
    "IndexJobRow",
    "LegalHoldRow",
    "ReferenceMatchRow",
    "ReferenceRow",
]
