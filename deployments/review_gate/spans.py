"""Past and future apart: train | validation | calibration | test, in the order in which milestones were reached.

Never random: a gate decides about tomorrow, and a random split lets it learn from the same day and the same author's
next hour. A post that reaches one milestone in one span and the next in a later one keeps its first row alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput

SPANS = ("train", "validation", "calibration", "test")
SHARES = (0.5, 0.1, 0.2, 0.2)


@dataclass(frozen=True)
class Span:
    """From when to when, and how many."""

    first: str  # ISO 8601, UTC
    last: str
    rows: int
    posts: int
    discarded: int


def split_by_time(
    reached_at: NDArray[np.datetime64], post_ids: NDArray[Any], shares: tuple[float, ...] = SHARES
) -> NDArray[np.int64]:
    """(n,) index into SPANS, or -1 for a row left out because its post began in an earlier span."""
    edges = np.sort(reached_at)[(np.cumsum(shares)[:-1] * len(reached_at)).astype(int)]
    span = np.searchsorted(edges, reached_at, side="right")  # what ties with an edge is after it
    _, post = np.unique(post_ids, return_inverse=True)
    first = np.full(post.max(initial=-1) + 1, len(SPANS))
    np.minimum.at(first, post, span)
    return np.where(span == first[post], span, -1)


def described(
    span: NDArray[np.int64], reached_at: NDArray[np.datetime64], post_ids: NDArray[Any], outcome: NDArray[np.bool_]
) -> Mapping[str, Span]:
    """Raises InvalidInput where a span holds no post of one of the two outcomes."""
    result = {}
    for index, name in enumerate(SPANS):
        rows = span == index
        discarded = int(outcome[rows].sum())
        if not 0 < discarded < int(rows.sum()):
            raise InvalidInput(
                f"The {name} span holds {int(rows.sum())} decisions and {discarded} discards: both outcomes must occur "
                "in each of the four spans. Give more data, or a longer time."
            )
        first, last = (f"{np.datetime_as_string(time, unit='s')}Z" for time in _ends(reached_at[rows]))
        result[name] = Span(first, last, int(rows.sum()), len(np.unique(post_ids[rows])), discarded)
    return result


def _ends(times: NDArray[np.datetime64]) -> tuple[np.datetime64, np.datetime64]:
    return times.min(), times.max()
