"""What comes into the gate, and what leaves it.

A post reaches a milestone of views; its stored scores and its author's history go in; `review` or `skip` comes out,
with the number that was held against a threshold, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

GateAction = Literal["review", "skip"]
HistoryStatus = Literal["ok", "stale", "missing"]


@dataclass(frozen=True)
class AuthorHistory:
    """The author's posts in the trailing window before `as_of`, and how many of them a person discarded."""

    status: HistoryStatus  # stale: older than it may be, counts still given; missing: not known, counts None
    posts: int | None
    discards: int | None
    window_days: int
    as_of: datetime | None = None


NO_HISTORY = AuthorHistory("missing", None, None, 0)


@dataclass(frozen=True)
class GateInput:
    """One post at one milestone."""

    post_id: str
    milestone: int  # views
    views: int  # now, at least the milestone
    nsfw_score: float  # 1 - P(safe), of the stored verdict
    category_scores: Mapping[str, float]  # seven
    language: str | None  # BCP-47
    content_type: str
    created_at: datetime
    reached_at: datetime  # when the milestone was reached
    history: AuthorHistory = NO_HISTORY

    @property
    def age_h(self) -> float:
        """Hours from the post's creation to the milestone; never below a minute."""
        return max((self.reached_at - self.created_at).total_seconds() / 3600, 1 / 60)

    @property
    def views_per_hour(self) -> float:
        return self.views / self.age_h


@dataclass(frozen=True)
class Contribution:
    """How much one feature moved the model's log-odds for this post."""

    feature: str
    value: float | str | None
    log_odds: float


@dataclass(frozen=True)
class GateDecision:
    action: GateAction
    score: float  # what was held against the threshold: the tree's probability, or the post's own score
    threshold: float | None  # None: there is none that keeps the recall, so everything is reviewed
    stratum: str  # whose threshold it is, for instance `hi/video`, `*/video` or `*`
    reason: str  # one sentence a moderator can read
    model: str  # name of what made `score`: `score`, or the tree's name
    model_version: str
    calibration: str  # id of the calibration: changes with its data, model and target
    contributions: tuple[Contribution, ...] = field(default=())  # the largest first
