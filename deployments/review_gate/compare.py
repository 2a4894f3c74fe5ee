"""What the tree is worth: volume saved against the score alone, each under thresholds with the same recall bound.

Both calibrate on the calibration span and are judged on the test span, which neither has seen. Intervals come of a
bootstrap over authors, because an author's posts are no independent witnesses; the difference is paired: the same
resample judges both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.review_gate.features import Floats
from deployments.review_gate.gate import Calibration
from deployments.review_gate.table import DecisionTable

Calibrate = Callable[[DecisionTable], Calibration]
RESAMPLES, CHUNK, LEVEL = 1000, 200, 0.95


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float  # of the two-sided interval at LEVEL
    high: float


@dataclass(frozen=True)
class Saved:
    """Of one way to score, on the test span; shares of all posts that reached the first milestone."""

    first_net: Estimate  # never looked at when they reach it
    first_recall: Estimate  # discards that the first net reviews
    both_nets: Estimate  # never looked at, at any milestone
    both_recall: Estimate  # discards that some net reviews


@dataclass(frozen=True)
class Comparison:
    posts: int
    authors: int
    discarded: int
    score_only: Saved
    tree: Saved
    first_net_gain: Estimate  # tree less score only
    both_nets_gain: Estimate

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    score: tuple[DecisionTable, Calibration],
    tree: tuple[DecisionTable, Calibration],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Each side: the test span's decisions under its scores, and its thresholds. The rows of both are the same."""
    posts = _Posts.of(score[0])
    sums = [posts.by_author(reviewed(*side)) for side in (score, tree)]
    draws = _draws(posts.author_count, resamples, seed)
    both = [_ratios(side, draws) for side in sums]
    point = [_ratios(side, np.ones((1, posts.author_count), np.float32))[0] for side in sums]
    scored = [
        Saved(*(_estimate(value[i], drawn[:, i]) for i in range(4))) for value, drawn in zip(point, both, strict=True)
    ]
    gain, gains = point[1] - point[0], both[1] - both[0]
    return Comparison(
        posts=len(posts.weight),
        authors=posts.author_count,
        discarded=int(posts.bad.sum()),
        score_only=scored[0],
        tree=scored[1],
        first_net_gain=_estimate(gain[0], gains[:, 0]),
        both_nets_gain=_estimate(gain[2], gains[:, 2]),
    )


def reviewed(table: DecisionTable, calibration: Calibration) -> NDArray[np.bool_]:
    """(n,) what the gate would send to review: the threshold of each row's stratum, looked up once per stratum."""
    keys = np.column_stack([table.languages.codes, table.content_types.codes, table.milestones])
    strata, of_row = np.unique(keys, axis=0, return_inverse=True)
    found = [
        calibration.lookup(table.languages.names[language] or None, table.content_types.names[kind], int(milestone))[1]
        for language, kind, milestone in strata
    ]
    thresholds = np.array([-np.inf if threshold is None else threshold for threshold in found])
    result: NDArray[np.bool_] = table.scores >= thresholds[of_row.ravel()]
    return result


@dataclass(frozen=True, eq=False)
class _Posts:
    """The rows of a table gathered by post, in the order of its first milestone."""

    first: NDArray[np.int64]  # row of each post's first milestone
    of_row: NDArray[np.int64]  # row -> post
    author: NDArray[np.int64]  # post -> 0..author_count-1
    author_count: int
    weight: Floats
    bad: NDArray[np.bool_]

    @classmethod
    def of(cls, table: DecisionTable) -> _Posts:
        order = np.argsort(table.milestones, kind="stable")
        _, first, inverse = np.unique(table.post_ids[order], return_index=True, return_inverse=True)
        of_row = np.empty(len(table), dtype=np.int64)
        of_row[order] = inverse
        rows = order[first]
        authors, author = np.unique(table.authors.codes[rows], return_inverse=True)
        return cls(rows, of_row, author, len(authors), table.weights[rows], table.outcomes[rows])

    def by_author(self, reviewed_rows: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(authors, 6): weight; of it skipped first, skipped always; of discards the weight, caught first, ever."""
        first = reviewed_rows[self.first]
        ever = np.bincount(self.of_row, reviewed_rows, minlength=len(self.weight)) > 0
        bad = self.bad
        kinds = (np.ones_like(bad), ~first, ~ever, bad, bad & first, bad & ever)
        sums = [np.bincount(self.author, self.weight * kind, minlength=self.author_count) for kind in kinds]
        return np.column_stack(sums).astype(np.float32)


def _ratios(by_author: NDArray[np.float32], draws: NDArray[np.float32]) -> Floats:
    """(draws, 4): first net saved, its recall, both nets saved, their recall."""
    weight, first, never, bad, caught, ever = (draws @ by_author).astype(np.float64).T
    weight, bad = np.maximum(weight, 1e-12), np.where(bad > 0, bad, np.nan)
    return np.column_stack([first / weight, caught / bad, never / weight, ever / bad])


def _draws(authors: int, resamples: int, seed: int) -> NDArray[np.float32]:
    """Each author comes Poisson(1) times: drawing whole authors with replacement."""
    return np.random.default_rng(seed).poisson(1.0, (resamples, authors)).astype(np.float32)


def _estimate(value: float, drawn: Floats) -> Estimate:
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def as_lines(comparison: Mapping[str, Any]) -> list[str]:
    """The comparison of a card as a table of at most 100 columns."""
    lines = [f"{'test span':<14}{'saved, first net':>26}{'saved, both nets':>26}{'recall, first':>16}{'both':>8}"]
    for name, title in (("score_only", "score only"), ("tree", "tree")):
        side = comparison[name]
        recalls = f"{side['first_recall']['value']:>16.3f}{side['both_recall']['value']:>8.3f}"
        lines.append(f"{title:<14}{_share(side['first_net']):>26}{_share(side['both_nets']):>26}{recalls}")
    gains = f"{_share(comparison['first_net_gain']):>26}{_share(comparison['both_nets_gain']):>26}"
    return [*lines, f"{'tree gains':<14}{gains}"]


def _share(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.1%} ({estimate['low']:.1%} to {estimate['high']:.1%})"
