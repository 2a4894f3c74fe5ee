"""What goes into the records of the review gate and comes out of them: plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from deployments.review_gate.values import AuthorHistory, GateDecision

Source = Literal["verdict", "gate", "audit", "stream"]
Outcome = Literal["ok", "discard"]


@dataclass(frozen=True)
class GateJob:
    """A milestone that was passed and waits for its decision."""

    post_id: str
    milestone: int
    views: int
    reached_at: datetime
    attempts: int  # this one included

    @property
    def identity(self) -> tuple[str, int]:
        return self.post_id, self.milestone


@dataclass(frozen=True)
class GatedPost:
    """What the records know of a post that the gate is asked about: its newest judged revision."""

    post_id: str
    revision: int
    author_id: str
    language: str | None
    content_type: str
    created_at: datetime
    nsfw_score: float
    category_scores: Mapping[str, float]
    verdict_action: str
    policy_version: str


@dataclass(frozen=True)
class HistoryAsk:
    """The history of a post's author, without the post itself, as of a moment."""

    author_id: str
    post_id: str
    as_of: datetime


@dataclass(frozen=True)
class Draw:
    """Whether a skipped post is audited, and with which probability it could have been."""

    audit: bool
    probability: float


@dataclass(frozen=True)
class Decided:
    """One decision, ready to be stored with what it was decided by."""

    job: GateJob
    post: GatedPost
    history: AuthorHistory
    decision: GateDecision
    draw: Draw


@dataclass(frozen=True)
class StoredDecision:
    """The decision that stands for a post at a milestone."""

    post_id: str
    milestone: int
    revision: int
    views: int
    reached_at: datetime
    history: AuthorHistory
    decision: GateDecision
    audit: bool
    inclusion_probability: float
    policy_version: str
    decided_at: datetime


@dataclass(frozen=True)
class Opening:
    """Why a post should be seen by a person."""

    post_id: str
    revision: int
    author_id: str
    language: str | None
    content_type: str
    created_at: datetime
    nsfw_score: float
    source: Source
    milestone: int | None = None


@dataclass(frozen=True)
class Review:
    review_id: str
    post_id: str
    revision: int
    author_id: str
    language: str | None
    content_type: str
    post_created_at: datetime
    nsfw_score: float
    sources: tuple[str, ...]
    milestone: int | None
    created_at: datetime
    due_at: datetime
    claimed_by: str | None
    claimed_until: datetime | None
    decided_at: datetime | None
    outcome: Outcome | None
    category: str | None
    note: str | None


@dataclass(frozen=True)
class QueueCount:
    """For gauges: how many reviews are open, and when the first of them was due or is."""

    open: int
    earliest_due: datetime | None
