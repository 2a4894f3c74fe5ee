"""The JSON shapes of the routes of the review gate and of the moderators' queue."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from deployments.policy.policy import UNSAFE
from deployments.review_gate.values import Contribution, GateAction, HistoryStatus
from serve_app.http.schemas import Shape
from serve_app.posts import Id, language_tag, moment
from serve_app.records.gate_values import Outcome, Review, StoredDecision

MOST_VIEWS = 2**63 - 1  # what a BIGINT holds
Views = Annotated[int, Field(strict=True, ge=0, le=MOST_VIEWS)]


class GateRequest(Shape):
    """A post at a milestone of views."""

    post_id: Id
    views: Views = Field(description="How often the post has been seen so far.")
    milestone: Annotated[int, Field(strict=True)] | None = Field(
        None, description="Which milestone; default: the highest one that the views have passed."
    )
    at: datetime | None = Field(None, description="When it had so many views (RFC 3339); default: now.")

    @field_validator("at")
    @classmethod
    def _aware_and_past(cls, value: datetime | None) -> datetime | None:
        return None if value is None else moment(value)


class HistoryBody(Shape):
    status: HistoryStatus
    posts: int | None = Field(description="The author's other posts in the window before the milestone.")
    discards: int | None = Field(description="How many of them a person discarded until then.")
    window_days: int


class GateBody(Shape):
    """The one decision that stands for a post at a milestone."""

    post_id: str
    milestone: int
    revision: int
    action: GateAction
    audit: bool = Field(description="Skipped, and drawn by chance to be reviewed all the same.")
    inclusion_probability: float = Field(description="That this decision sends such a post to review.")
    score: float
    threshold: float | None = Field(description="None: none keeps the recall, so everything is reviewed.")
    stratum: str
    reason: str
    contributions: list[Contribution]
    history: HistoryBody
    model: str
    model_version: str
    calibration: str
    policy_version: str
    views: int
    reached_at: datetime
    decided_at: datetime

    @classmethod
    def of(cls, stored: StoredDecision) -> Self:
        decision, history = stored.decision, stored.history
        return cls(
            post_id=stored.post_id,
            milestone=stored.milestone,
            revision=stored.revision,
            action=decision.action,
            audit=stored.audit,
            inclusion_probability=stored.inclusion_probability,
            score=decision.score,
            threshold=decision.threshold,
            stratum=decision.stratum,
            reason=decision.reason,
            contributions=list(decision.contributions),
            history=HistoryBody(
                status=history.status,
                posts=history.posts,
                discards=history.discards,
                window_days=history.window_days,
            ),
            model=decision.model,
            model_version=decision.model_version,
            calibration=decision.calibration,
            policy_version=stored.policy_version,
            views=stored.views,
            reached_at=stored.reached_at,
            decided_at=stored.decided_at,
        )


class ClaimRequest(Shape):
    n: Annotated[int, Field(strict=True, ge=1, le=100)] = Field(1, description="How many at most.")
    languages: list[str] | None = Field(
        None, min_length=1, max_length=100, description="Only posts in these languages, by first subtag."
    )

    @field_validator("languages")
    @classmethod
    def _bcp47(cls, value: list[str] | None) -> list[str] | None:
        for tag in value or ():
            language_tag(tag)
        return value


class DecisionRequest(Shape):
    """What the moderator found. `discard` names the category; `ok` has none."""

    outcome: Outcome
    category: str | None = Field(None, description="One of the six unsafe categories.")
    note: Annotated[str, StringConstraints(max_length=2000)] | None = None

    @field_validator("category")
    @classmethod
    def _unsafe(cls, value: str | None) -> str | None:
        if value is not None and value not in UNSAFE:
            raise ValueError(f"must be one of {', '.join(UNSAFE)}")
        return value

    @field_validator("note")
    @classmethod
    def _storable(cls, value: str | None) -> str | None:
        if value is not None and "\x00" in value:
            raise ValueError("must not hold NUL")
        return value

    @model_validator(mode="after")
    def _category_of_a_discard(self) -> Self:
        if (self.outcome == "discard") != (self.category is not None):
            raise ValueError("`discard` needs a category, `ok` has none")
        return self


class ReviewBody(Shape):
    review_id: str
    post_id: str
    revision: int
    language: str | None
    content_type: str
    post_created_at: datetime
    nsfw_score: float
    sources: list[Literal["verdict", "gate", "audit", "stream"]] = Field(description="Why it is here, first one first.")
    milestone: int | None
    created_at: datetime
    due_at: datetime
    status: Literal["open", "claimed", "decided"]
    claimed_until: datetime | None
    decided_at: datetime | None
    outcome: Outcome | None
    category: str | None
    note: str | None

    @classmethod
    def of(cls, review: Review, now: datetime) -> Self:
        held = review.claimed_until is not None and review.claimed_until > now
        return cls(
            review_id=review.review_id,
            post_id=review.post_id,
            revision=review.revision,
            language=review.language,
            content_type=review.content_type,
            post_created_at=review.post_created_at,
            nsfw_score=review.nsfw_score,
            sources=list(review.sources),
            milestone=review.milestone,
            created_at=review.created_at,
            due_at=review.due_at,
            status="decided" if review.decided_at is not None else "claimed" if held else "open",
            claimed_until=review.claimed_until,
            decided_at=review.decided_at,
            outcome=review.outcome,
            category=review.category,
            note=review.note,
        )


class ClaimBody(Shape):
    reviews: list[ReviewBody]  # what is due first comes first
