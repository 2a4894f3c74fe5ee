"""The recall of the gate's first net, live: what it sent to review against what it skipped and was found bad later.

Posts of a period fall into three kinds by what became of them:
    reviewed   the first net sent them to review
    caught     it skipped them, and a rule (the second net, the verdict itself) sent them to review all the same
    unseen     it skipped them, and nothing but the audit sample looks at them: also those that never get that far
Of the unseen, the audited ones stand for all, each weighted by its inverse probability (Horvitz, Thompson, 1952, as
the ratio of Hajek, 1971). The interval is that of the unseen bad posts: Clopper-Pearson with the effective sample size
of the weights (Korn, Graubard, 1998); it is about the posts of this period, whose other two kinds are counted whole.
Reviews that are still open are taken to turn out like those of their kind that are done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import betaincinv, ndtri  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Seen:
    """Posts that a rule sends to review."""

    posts: int = 0
    judged: int = 0
    bad: int = 0

    @property
    def bad_estimate(self) -> float:
        return self.bad * self.posts / self.judged if self.judged else 0.0

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.posts + other.posts, self.judged + other.judged, self.bad + other.bad)


@dataclass(frozen=True)
class Unseen:
    """Posts that only the audit sample looks at; sums over those that were drawn and judged, w = 1 / probability."""

    posts: int = 0
    drawn: int = 0
    judged: int = 0
    bad: int = 0
    weights: float = 0.0  # sum of w
    squares: float = 0.0  # sum of w^2
    bad_weights: float = 0.0  # sum of w over the bad ones

    def __add__(self, other: Unseen) -> Unseen:
        return Unseen(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def share(self, level: float) -> tuple[float, float, float]:
        """Lower end, estimate and upper end of the share of bad posts."""
        if self.posts == 0:
            return 0.0, 0.0, 0.0
        if self.judged == 0:
            return 0.0, 0.0, 1.0
        share = min(1.0, self.bad_weights / self.weights)
        n = self.weights**2 / self.squares
        hits, tail = share * n, (1 - level) / 2
        lower = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
        upper = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
        return lower, share, upper


@dataclass(frozen=True)
class Kinds:
    reviewed: Seen = Seen()
    caught: Seen = Seen()
    unseen: Unseen = Unseen()

    def __add__(self, other: Kinds) -> Kinds:
        return Kinds(self.reviewed + other.reviewed, self.caught + other.caught, self.unseen + other.unseen)

    @property
    def bad_found(self) -> int:
        return self.reviewed.bad + self.caught.bad + self.unseen.bad

    @property
    def open_reviews(self) -> int:
        seen = self.reviewed.posts - self.reviewed.judged + self.caught.posts - self.caught.judged
        return seen + self.unseen.drawn - self.unseen.judged


@dataclass(frozen=True)
class Recall:
    """None where no bad post is known: nothing to recall."""

    language: str | None  # first subtag, empty where unknown; None: all together
    estimate: float | None
    lower: float | None
    upper: float | None
    kinds: Kinds


def recall_of(kinds: Kinds, level: float, language: str | None = None) -> Recall:
    found, caught = kinds.reviewed.bad_estimate, kinds.caught.bad_estimate
    if kinds.bad_found == 0:
        return Recall(language, None, None, None, kinds)
    low, middle, high = (kinds.unseen.posts * share for share in kinds.unseen.share(level))

    def recall(unseen_bad: float) -> float:
        everything = found + caught + unseen_bad
        return found / everything if everything else 0.0

    return Recall(language, recall(middle), recall(high), recall(low), kinds)


def audit_share(bad: float, recall: float, half_width: float, level: float) -> float:
    """The share of skipped posts to audit so that the interval has the half-width where a period has `bad` posts.

    With F = (1 - recall) bad missed ones, each audited with probability p, their estimate has the variance
    F (1 - p) / p, and recall's derivative by it is recall / bad; so
    half_width^2 = z^2 recall^2 (1 - recall) (1 - p) / (p bad).
    """
    z = -ndtri((1 - level) / 2)
    spread = (z * recall) ** 2 * (1 - recall)
    if spread <= 0 or not math.isfinite(bad):
        return 0.0
    return float(1 / (1 + half_width**2 * bad / spread)) if bad > 0 else 1.0
