"""The decision at a milestone: review or skip, the number held against which threshold, and why.

Posts -> each checked -> scores (the tree's probability, or the post's own score) -> the threshold of its stratum ->
GateDecision with reasons. A stratum without a threshold is reviewed; without a calibration everything is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

import numpy as np

from deployments.review_gate.checks import check_input
from deployments.review_gate.features import Facts, Floats, facts_of
from deployments.review_gate.values import Contribution, GateAction, GateDecision, GateInput
from deployments.review_gate.words import in_words
from deployments.runtime.errors import InvalidInput

SCORE = "score"
UNCALIBRATED = "none"
Explain = Literal["review", "all", "none"]
REASONS = 3  # contributions a decision tells


class Calibration(Protocol):
    """Thresholds that keep a recall, by stratum."""

    @property
    def id(self) -> str: ...

    def lookup(self, language: str | None, content_type: str, milestone: int) -> tuple[str, float | None]:
        """The narrowest stratum there is for such a post, and its threshold; None where none keeps the recall."""
        ...


class Scorer(Protocol):
    """What turns posts into numbers; see trees.py."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...

    def scores(self, facts: Facts) -> Floats: ...

    def contributions(self, facts: Facts) -> list[list[Contribution]]:
        """Of each post, the largest first."""
        ...


class PostScore:
    """The post's own score, as it is."""

    name, version = SCORE, "1"

    def scores(self, facts: Facts) -> Floats:
        return facts.score

    def contributions(self, facts: Facts) -> list[list[Contribution]]:
        return [[] for _ in range(len(facts))]


POST_SCORE = PostScore()


@dataclass(frozen=True)
class _Held:
    """A score held against a threshold."""

    action: GateAction
    score: float
    stratum: str
    threshold: float | None


@dataclass(frozen=True)
class ReviewGate:
    """`scorer` must be the one whose scores were calibrated: whoever loads both sees to it.

    `explain`: which decisions tell their contributions; they take some fifty times as long as the tree's scores.
    """

    calibration: Calibration | None = None
    scorer: Scorer = POST_SCORE
    explain: Explain = "review"
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def decide(self, post: GateInput) -> GateDecision:
        """Raises InvalidInput."""
        decision = self.decide_many([post])[0]
        if isinstance(decision, InvalidInput):
            raise decision
        return decision

    def decide_many(self, posts: Sequence[GateInput]) -> list[GateDecision | InvalidInput]:
        """Of each post, in order, its decision or its own error: one bad post changes nothing for the others."""
        now = self.clock()
        refused = [_refusal(post, now) for post in posts]
        good = [post for post, error in zip(posts, refused, strict=True) if error is None]
        decided = iter(self._decide(good) if good else [])
        return [next(decided) if error is None else error for error in refused]

    def _decide(self, posts: Sequence[GateInput]) -> list[GateDecision]:
        facts = facts_of(posts)
        held = [self._held(post, float(score)) for post, score in zip(posts, self.scorer.scores(facts), strict=True)]
        told = [row for row, one in enumerate(held) if self._tells(one.action)]
        why = dict(zip(told, self.scorer.contributions(facts.take(np.array(told, dtype=int))), strict=True))
        return [
            self._told(post, one, why.get(row, [])) for row, (post, one) in enumerate(zip(posts, held, strict=True))
        ]

    def _tells(self, action: GateAction) -> bool:
        return self.explain == "all" or self.explain == action

    def _held(self, post: GateInput, score: float) -> _Held:
        if self.calibration is None:
            return _Held("review", score, "*", None)
        stratum, threshold = self.calibration.lookup(post.language, post.content_type, post.milestone)
        return _Held("review" if threshold is None or score >= threshold else "skip", score, stratum, threshold)

    def _told(self, post: GateInput, held: _Held, contributions: Sequence[Contribution]) -> GateDecision:
        top = tuple(contributions[:REASONS])
        return GateDecision(
            action=held.action,
            score=held.score,
            threshold=held.threshold,
            stratum=held.stratum,
            reason=self._reason(post, held, top),
            model=self.scorer.name,
            model_version=self.scorer.version,
            calibration=self.calibration.id if self.calibration else UNCALIBRATED,
            contributions=top,
        )

    def _reason(self, post: GateInput, held: _Held, top: Sequence[Contribution]) -> str:
        if self.calibration is None:
            return "Every post is reviewed: no calibrated threshold is in force."
        if held.threshold is None:
            return f"Every post of {held.stratum} is reviewed: no threshold is known to keep the recall there."
        noun = "Score" if self.scorer.name == SCORE else "Probability"
        side = "at or above" if held.action == "review" else "below"
        said = f"{noun} {held.score:.3g} is {side} {held.stratum}'s threshold of {held.threshold:.3g}"
        because = "; ".join(in_words(contribution, post) for contribution in top)
        return f"{said}: {because}." if because else f"{said}."


def _refusal(post: GateInput, now: datetime) -> InvalidInput | None:
    try:
        check_input(post, now)
    except InvalidInput as error:
        return error
    return None
