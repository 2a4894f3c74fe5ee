"""Settings of the review gate outside its node: history, audit sample, moderators' queue, live recall."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

_HOUR_S = 3600.0


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QueueSettings(_Frozen):
    """The moderators' queue: what is due first is reviewed first, so nothing starves."""

    stream_due_s: float = Field(300.0, gt=0, description="From its flag to the review of a stream's post.")
    verdict_due_s: float = Field(_HOUR_S, gt=0, description="From a verdict `review` to the person's look at the post.")
    gate_due_s: float = Field(4 * _HOUR_S, gt=0, description="From the gate's `review` to the person's look.")
    audit_due_s: float = Field(24 * _HOUR_S, gt=0, description="From the drawing of an audit to the person's look.")
    claim_s: float = Field(900.0, gt=0, description="How long a claimed review stays with its moderator.")
    undo_s: float = Field(900.0, ge=0, description="How long after a decision it may be taken back.")


class RecallSettings(_Frozen):
    """The live estimate of the first net's recall, and the audit sample that makes it honest."""

    target: float = Field(0.95, gt=0, lt=1, description="Recall the first net must hold.")
    level: float = Field(0.95, gt=0, lt=1, description="Confidence of the estimate's interval.")
    half_width: float = Field(0.02, gt=0, lt=1, description="Wanted half-width of the interval: sizes the sample.")
    start_share: float = Field(0.05, gt=0, le=1, description="Share of skipped posts audited while little is known.")
    least_share: float = Field(0.002, gt=0, le=1, description="Never audit a smaller share.")
    window_days: float = Field(30.0, gt=0, description="The estimate looks at decisions of so many days.")
    enough_bad: int = Field(59, ge=1, description="No alarm, and no sample size, on fewer bad posts found.")
    every_s: float = Field(_HOUR_S, gt=0, description="Pause between two estimates.")


class GatingSettings(_Frozen):
    history_days: int = Field(180, ge=1, le=3650, description="Posts and discards of an author count for so many days.")
    history_timeout_s: float = Field(
        2.0, gt=0, description="Longest wait for an author's history; then the last known one counts, as stale."
    )
    history_stale_s: float = Field(_HOUR_S, ge=0, description="Oldest history that may stand in as stale.")
    batch: int = Field(64, ge=1, le=1000, description="Milestones decided at once.")
    poll_s: float = Field(0.5, gt=0, description="Pause between two looks at an empty queue.")
    busy_s: float = Field(30.0, gt=0, description="A worker that takes longer for its batch counts as dead.")
    retry_base_s: float = Field(1.0, gt=0, description="Pause before the second attempt; doubles with each.")
    retry_max_s: float = Field(60.0, gt=0, description="Longest such pause.")
    unknown_posts_s: float = Field(
        30 * 24 * _HOUR_S, gt=0, description="How long a milestone waits for a verdict on its post."
    )
    queue: QueueSettings = Field(default_factory=QueueSettings, description="The moderators' queue.")
    recall: RecallSettings = Field(default_factory=RecallSettings, description="Live recall and audit sample.")


__all__ = ["GatingSettings", "QueueSettings", "RecallSettings"]
