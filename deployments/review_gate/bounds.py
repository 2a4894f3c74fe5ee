"""Lower confidence bounds of recall, and the largest threshold whose bound holds a target.

Only bad posts count: recall(t) = weight of bad posts with score >= t / weight of all bad posts.

One rule makes the choice among many thresholds safe. True recall falls with t; let t* be the last threshold at which it
is still the target. A bound that falls with t too, and is right at each fixed t with the given confidence, can only be
wrong in its choice when it is wrong just above t*: one event, so no correction for the number of thresholds looked at
(Bates, Angelopoulos, Lei, Malik, Jordan, "Distribution-free, risk-controlling prediction sets", 2021, theorem 1).

Independent posts: Clopper and Pearson (1934). With k of n bad posts below t the bound is the (1 - confidence) quantile
of Beta(n - k, k + 1), which is also the law of the recall at the (k + 1)-th smallest score (Wilks, 1941): exact.

Authors with many posts, or weights: the smaller of two bounds.
  a bootstrap over authors (percentile of recall over resamples of whole authors: Davison, Hinkley, 1997, 3.8)
  Clopper-Pearson with the effective number of posts n / deff (Korn, Graubard, 1998), because a bootstrap knows nothing
  of misses that this sample happens not to hold: where none is below t, every resample says recall 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Method = Literal["exact", "bootstrap"]

MISSES_LOOKED_AT = (0.02, 0.05, 0.10, 0.20)
"""Shares of missed bad posts at which the design effect is estimated; the largest counts. Fixed, so that the effective
number of posts depends on neither target nor threshold, and the bound keeps falling with both."""

GRID, CHUNK = 256, 250

FEWEST_AUTHORS = 50
"""Cluster-robust methods need about this many clusters (Cameron, Miller, "A practitioner's guide to cluster-robust
inference", 2015, part VI)."""


@dataclass(frozen=True, eq=False)
class Positives:
    """n bad posts, by score from the smallest; authors as codes 0..authors-1."""

    scores: Floats
    authors: NDArray[np.int64]
    weights: Floats
    heaviest: float  # the most that any judged post counts, good or bad

    @property
    def count(self) -> int:
        return len(self.scores)

    @property
    def author_count(self) -> int:
        return int(self.authors.max()) + 1 if self.count else 0

    @property
    def independent(self) -> bool:
        """Each has an author of its own and counts 1: nothing but a binomial is needed."""
        return self.author_count == self.count and bool((self.weights == 1).all())


def positives(scores: Floats, authors: NDArray[Any], weights: Floats, heaviest: float | None = None) -> Positives:
    """In one order whatever order they come in, so that the same rows always give the same threshold."""
    order = np.lexsort((weights, authors, scores))
    _, codes = np.unique(authors[order], return_inverse=True)
    most = float(weights.max(initial=0.0)) if heaviest is None else heaviest
    return Positives(scores[order], codes.astype(np.int64), weights[order], most)


def clopper_pearson_lower(hits: Any, n: Any, confidence: float) -> Any:
    """One-sided lower bound of a share, `hits` of `n`; both may be arrays, and need not be whole."""
    hits, n = np.asarray(hits, dtype=np.float64), np.asarray(n, dtype=np.float64)
    safe = np.maximum(hits, np.finfo(float).tiny)
    return np.where(hits > 0, betaincinv(safe, np.maximum(n - hits, 0.0) + 1.0, 1.0 - confidence), 0.0)


def positives_needed(target: float, confidence: float) -> int:
    """The fewest independent bad posts that can show a recall: target ** n <= 1 - confidence (59 at 0.95 and 95 %).

    Clopper-Pearson's bound when none is missed is (1 - confidence) ** (1 / n); Wilks (1941) for tolerance limits.
    """
    return math.ceil(math.log(1.0 - confidence) / math.log(target) - 1e-9)


def design_effect(bad: Positives) -> float:
    """How many times larger the variance of recall is than for as many independent posts of weight 1; at least 1.

    By linearisation of the ratio with authors as clusters: var = a / (a - 1) * sum_i (sum_j w_ij (miss_ij - p))^2 / W^2
    over a authors (Cochran, "Sampling techniques", 1977, 6.3 and 9A.2), against p (1 - p) / n.
    """
    a, n = bad.author_count, bad.count
    if a < 2:
        return float(n)
    total = bad.weights.sum()
    cumulative = np.cumsum(bad.weights) / total
    largest = 1.0
    for share in MISSES_LOOKED_AT:
        missed = cumulative <= share
        p = float(cumulative[missed][-1]) if missed.any() else 0.0
        if not 0 < p < 1:
            continue
        sums = np.bincount(bad.authors, bad.weights * (missed - p), minlength=a)
        variance = a / (a - 1) * float((sums**2).sum()) / total**2
        largest = max(largest, variance * n / (p * (1 - p)))
    return largest


def effective_count(bad: Positives, confidence: float) -> float:
    """n / deff, less what the design effect's own estimate from few authors costs: (t_n-1 / t_a-1)^2 (Korn, Graubard).

    Never more than the sum of weights over the heaviest weight: a skipped bad post counts that much where the audit
    happens to find it, and where it does not, nothing among those found tells of it.
    """
    if bad.author_count < 2:
        return float(bad.author_count)
    n = min(bad.count / design_effect(bad), float(bad.weights.sum()) / bad.heaviest)
    if confidence <= 0.5:
        return n
    t_posts, t_authors = stdtrit(bad.count - 1, confidence), stdtrit(bad.author_count - 1, confidence)
    return n * float(t_posts / t_authors) ** 2


@dataclass(frozen=True, eq=False)
class RecallBound:
    """A lower bound of recall at every threshold. Build it with `recall_bound`."""

    bad: Positives
    method: Method
    confidence: float
    n: float  # (effective) number of bad posts
    grid: NDArray[np.int64]  # numbers of misses at which the bootstrap was looked at; empty where exact
    resampled: Floats  # (len(grid),) the bootstrap's bound there

    def at_misses(self, ks: NDArray[np.int64]) -> Floats:
        """Bound with the k smallest scores missed."""
        hits = self.n * self._kept()[ks] if self.method == "bootstrap" else self.bad.count - ks
        bound = np.asarray(clopper_pearson_lower(hits, self.n, self.confidence), dtype=np.float64)
        if self.method == "exact":
            return bound
        return np.minimum(bound, self.resampled[np.searchsorted(self.grid, ks, side="left")])  # the next more misses

    def at(self, thresholds: Floats) -> Floats:
        return self.at_misses(self._misses(thresholds))

    def recall_at(self, thresholds: Floats) -> Floats:
        """The estimate itself."""
        return self._kept()[self._misses(thresholds)]

    def threshold(self, target: float) -> float | None:
        """The largest score of a bad post whose bound holds the target; None where not even the smallest does."""
        holds = np.flatnonzero(self.at_misses(np.arange(self.bad.count)) >= target)
        return float(self.bad.scores[holds[-1]]) if len(holds) else None

    def _misses(self, thresholds: Floats) -> NDArray[np.int64]:
        return np.searchsorted(self.bad.scores, thresholds, side="left").astype(np.int64)

    def _kept(self) -> Floats:
        """(n + 1,) weighted recall with k = 0..n missed."""
        missed = np.concatenate([[0.0], np.cumsum(self.bad.weights)])
        return np.asarray(1.0 - missed / missed[-1], dtype=np.float64)


def recall_bound(
    bad: Positives, confidence: float, method: Method, resamples: int = 1000, seed: int = 0
) -> RecallBound:
    """`resamples` of whole authors, drawn with replacement by `seed`."""
    if method == "exact":
        nothing = np.empty(0)
        return RecallBound(bad, method, confidence, float(bad.count), nothing.astype(np.int64), nothing)
    grid = miss_grid(bad.count)
    drawn = resample(bad, grid, resamples, seed)
    quantiles = np.quantile(drawn, 1.0 - confidence, axis=0, method="lower").astype(np.float64)
    return RecallBound(bad, method, confidence, effective_count(bad, confidence), grid, quantiles)


def miss_grid(n: int) -> NDArray[np.int64]:
    """At most GRID + 1 numbers of misses in 0..n, dense where few are missed."""
    return np.unique(np.ceil(n * (np.arange(GRID + 1) / GRID) ** 2).astype(np.int64))


def resample(bad: Positives, grid: NDArray[np.int64], resamples: int, seed: int) -> NDArray[np.float32]:
    """(resamples, len(grid)): recall in resamples of whole authors when the grid's numbers of scores are missed.

    Each author comes Poisson(1) times, which for more than a few authors is drawing with replacement (Chamandy et al.,
    "Estimating uncertainty for massive data streams", 2012), and needs no loop over authors.
    """
    rng = np.random.default_rng(seed)
    a, place = bad.author_count, np.searchsorted(grid, np.arange(1, bad.count + 1))
    flat = np.bincount(bad.authors * len(grid) + place, bad.weights, minlength=a * len(grid))
    missed = np.cumsum(flat.reshape(a, len(grid)), axis=1).astype(np.float32)  # weight of an author's misses
    recalls = []
    for start in range(0, resamples, CHUNK):
        times = _POISSON[rng.integers(0, len(_POISSON), (min(CHUNK, resamples - start), a), dtype=np.uint16)]
        weights = times @ missed
        recalls.append(1.0 - weights / np.maximum(weights[:, -1:], np.finfo(np.float32).tiny))
    return np.concatenate(recalls)


def _poisson_table(size: int = 1 << 16) -> NDArray[np.float32]:
    """Poisson(1) at `size` even steps of its distribution: a random index is a draw."""
    shares = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    return np.searchsorted(shares, (np.arange(size) + 0.5) / size).astype(np.float32)


_POISSON = _poisson_table()
