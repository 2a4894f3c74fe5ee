"""The SQL tables of the review gate, in the order a post meets them: gate job -> gate decision -> review -> outcome.

A job is written with the view count that passed the milestone; its decision, later, with what it was decided by, so
that a table of decisions can be made without looking anything up. A review is a place in the moderators' queue, an
outcome what a person said of one revision of a post. Erasing a post deletes its rows in all of them.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from serve_app.records.tables import _POST_ID, Table, partial_index

_TAG = String(64)  # BCP-47


class GateJobRow(Table):
    """A milestone that was passed and is not decided yet."""

    __tablename__ = "gate_jobs"
    post_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    milestone: Mapped[int] = mapped_column(BigInteger(), primary_key=True, autoincrement=False)
    views: Mapped[int] = mapped_column(BigInteger())
    reached_at: Mapped[datetime]
    created_at: Mapped[datetime]
    available_at: Mapped[datetime] = mapped_column(index=True)  # not claimed before; far off: until there is a verdict
    attempts: Mapped[int]
    error: Mapped[str | None] = mapped_column(Text())


class GateDecisionRow(Table):
    """What the gate said of a post at a milestone, once, and what it was told."""

    __tablename__ = "gate_decisions"
    __table_args__ = (Index("ix_gate_decisions_decided", "milestone", "decided_at"),)
    post_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    milestone: Mapped[int] = mapped_column(BigInteger(), primary_key=True, autoincrement=False)
    revision: Mapped[int]
    author_id: Mapped[str] = mapped_column(_POST_ID)
    language: Mapped[str | None] = mapped_column(_TAG)
    content_type: Mapped[str] = mapped_column(String(8))
    created_at: Mapped[datetime]  # of the post
    reached_at: Mapped[datetime]
    views: Mapped[int] = mapped_column(BigInteger())
    nsfw_score: Mapped[float]
    category_scores: Mapped[str]  # JSON object
    verdict_action: Mapped[str] = mapped_column(String(16))
    history_status: Mapped[str] = mapped_column(String(8))
    author_posts: Mapped[int | None]
    author_discards: Mapped[int | None]
    action: Mapped[str] = mapped_column(String(8))  # review, skip
    audit: Mapped[bool]  # skipped, and reviewed all the same: drawn by chance
    inclusion_probability: Mapped[float]  # that this decision sends the post to review; 1 where the action is review
    score: Mapped[float]
    threshold: Mapped[float | None]
    stratum: Mapped[str] = mapped_column(String(96))
    reason: Mapped[str]
    model: Mapped[str] = mapped_column(String(128))
    model_version: Mapped[str] = mapped_column(String(128))
    calibration: Mapped[str] = mapped_column(String(128))
    policy_version: Mapped[str] = mapped_column(String(64))  # of the verdict whose scores were used
    contributions: Mapped[str]  # JSON list
    decided_at: Mapped[datetime]


class ReviewRow(Table):
    """A post that a person should see; open until `decided_at`. At most one is open for a post."""

    __tablename__ = "reviews"
    __table_args__ = (
        partial_index("uq_reviews_open", "post_id", where="decided_at IS NULL", unique=True),
        partial_index("ix_reviews_due", "due_at", where="decided_at IS NULL"),
        partial_index("ix_reviews_language", "primary_language", "due_at", where="decided_at IS NULL"),
        Index("ix_reviews_post", "post_id"),
    )
    review_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    post_id: Mapped[str] = mapped_column(_POST_ID)
    revision: Mapped[int]
    author_id: Mapped[str] = mapped_column(_POST_ID)
    language: Mapped[str | None] = mapped_column(_TAG)
    primary_language: Mapped[str] = mapped_column(String(8))  # `hi` of `hi-Latn-IN`; empty where it is not known
    content_type: Mapped[str] = mapped_column(String(8))
    post_created_at: Mapped[datetime]
    nsfw_score: Mapped[float]
    sources: Mapped[str] = mapped_column(String(64))  # why it is here, separated by spaces, the first one first
    milestone: Mapped[int | None] = mapped_column(BigInteger())  # the first that sent it here
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]  # the earliest is reviewed first
    claimed_by: Mapped[str | None] = mapped_column(String(128))  # API key id
    claimed_until: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(8))  # ok, discard
    category: Mapped[str | None] = mapped_column(String(32))
    note: Mapped[str | None] = mapped_column(Text())


class OutcomeRow(Table):
    """What a person said of one revision of a post."""

    __tablename__ = "outcomes"
    __table_args__ = (
        partial_index("ix_outcomes_author", "author_id", "post_created_at", "post_id", where="outcome = 'discard'"),
        Index("ix_outcomes_decided_at", "decided_at"),
    )
    post_id: Mapped[str] = mapped_column(_POST_ID, primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    review_id: Mapped[str] = mapped_column(String(32))
    author_id: Mapped[str] = mapped_column(_POST_ID)
    language: Mapped[str | None] = mapped_column(_TAG)
    content_type: Mapped[str] = mapped_column(String(8))
    post_created_at: Mapped[datetime]
    nsfw_score: Mapped[float]
    milestone: Mapped[int | None] = mapped_column(BigInteger())
    sources: Mapped[str] = mapped_column(String(64))
    outcome: Mapped[str] = mapped_column(String(8))
    category: Mapped[str | None] = mapped_column(String(32))
    reviewer: Mapped[str] = mapped_column(String(128))
    decided_at: Mapped[datetime]
    weight: Mapped[float]  # inverse probability of having been reviewed, as known when it was decided


class GateStateRow(Table):
    """What the gate must remember: the salt of its audit sample, when it last gave the alarm."""

    __tablename__ = "gate_state"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str]
    at: Mapped[datetime]


__all__ = ["GateDecisionRow", "GateJobRow", "GateStateRow", "OutcomeRow", "ReviewRow"]
