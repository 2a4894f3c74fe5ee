"""A distance for every pair of a copy and an original, stage by stage, and what a threshold on it finds and invents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.near_duplicates.looked_at import Seen
from deployments.similarity.uses.signatures import mirror, nearest

NOTHING = 256.0  # distance where a post has no signature of enough quality
Distance = Callable[[Seen, Seen], float]


@dataclass(frozen=True)
class Pairs:
    """Distances (lower is nearer) of copies to originals, and which of the pairs belong together."""

    distances: NDArray[np.float64]  # (copies, originals)
    same: NDArray[np.bool_]  # (copies, originals)

    @classmethod
    def of(cls, copies: Sequence[Seen], originals: Sequence[Seen], distance: Distance) -> Pairs:
        return cls(
            np.array([[distance(copy, original) for original in originals] for copy in copies]),
            np.array([[copy.source == original.source for original in originals] for copy in copies]),
        )

    def recall(self, at_most: float) -> float:
        """Share of the true pairs found."""
        return float(np.mean(self.distances[self.same] <= at_most))

    def false_positives(self, at_most: float) -> float:
        """Share of the unrelated pairs that are taken for copies."""
        return float(np.mean(self.distances[~self.same] <= at_most))

    @property
    def clean(self) -> float:
        """The largest distance at which nothing unrelated is found, just below the nearest unrelated pair."""
        return float(np.nextafter(self.distances[~self.same].min(), -np.inf))


def sha256(one: Seen, other: Seen) -> float:
    return float(one.sha256 != other.sha256)


def pdq(one: Seen, other: Seen) -> float:
    """Bits between the two nearest frames."""
    pair = nearest(one.signatures, other.signatures)
    return NOTHING if pair is None else float(pair.distance)


def pdq_both_ways(one: Seen, other: Seen) -> float:
    """The picture or its mirror image."""
    pair = nearest(mirror(one.signatures), other.signatures)
    return min(pdq(one, other), NOTHING if pair is None else float(pair.distance))


def embedding(centre: NDArray[np.float32] | float = 0.0) -> Distance:
    """1 - cosine of the mean vectors, `centre` taken away from both."""

    def distance(one: Seen, other: Seen) -> float:
        a, b = one.mean - centre, other.mean - centre
        return 1.0 - float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    return distance
