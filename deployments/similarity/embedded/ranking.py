"""Candidates of all parts in; the best k items of each query, by exact score, out.

The parts' own scores say which candidates are worth a look at their rows; what is told comes from the rows alone. A
candidate has one number for its part and its position there: its *place*.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.embedded.table import Table
from deployments.similarity.spaces import Space
from deployments.similarity.values import Neighbours

_NOWHERE = -1


@dataclass(slots=True)
class Candidates:
    """Of one part, for n queries."""

    table: Table
    scores: NDArray[np.float32]  # (n, c) the index's own
    positions: NDArray[np.int64]  # (n, c), -1 for none
    exact: bool  # the scores follow from the rows, not from codes


@dataclass(frozen=True)
class Found:
    """doubled: a row and its replacement were met; of the two the newer counts, and there may be one too few."""

    neighbours: list[Neighbours]
    doubled: bool


class Ranking:
    """Of the candidates of one search. ascending: whether the index's own scores are distances."""

    def __init__(self, space: Space, ascending: bool, found: Sequence[Candidates]) -> None:
        self._space = space
        self._ascending = ascending
        self._found = found
        self._tables = [candidates.table for candidates in found]
        self._starts = [0, *accumulate(len(table) for table in self._tables)]  # of each part's places, and their end
        self._bounds = np.array(self._starts)
        self._exact = all(candidates.exact for candidates in found)

    def best(self, queries: Sequence[NDArray[Any]], k: int, want: int, threshold: float | None) -> Found:
        """want: candidates of a query whose rows are looked at."""
        keys, places = self._merged()
        keep = k + 1 if self._exact else want
        kept: NDArray[np.intp] | None = None
        if self._space.metric != "jaccard" and keys.shape[1] > keep:  # signatures of sets are too rough to choose by
            kept = keys.argpartition(keep - 1, axis=1)[:, :keep]
        neighbours, doubled = [], False
        for row, query in enumerate(queries):
            some = slice(None) if kept is None else kept[row]
            if self._exact:
                scores, where = self._sorted(keys[row, some], places[row, some], k + 1)
            else:
                scores, where = self._rescored(query, places[row, some], k + 1)
            if threshold is not None:
                enough = int(np.count_nonzero(self._space.better(scores, threshold)))
                scores, where = scores[:enough], where[:enough]
            named, twice = self._named(where.tolist(), scores, k)
            neighbours.append(named)
            doubled |= twice
        return Found(neighbours, doubled)

    def _merged(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(n, all candidates): keys, of which smaller is better, and places."""
        keys = np.concatenate([candidates.scores for candidates in self._found], axis=1)
        if not self._ascending:
            np.negative(keys, out=keys)
        places = np.concatenate([candidates.positions for candidates in self._found], axis=1)
        nowhere = places < 0
        end = 0
        for candidates, start in zip(self._found, self._starts, strict=False):
            end += candidates.positions.shape[1]
            if start:
                places[:, end - candidates.positions.shape[1] : end] += start
        keys[nowhere] = np.inf
        places[nowhere] = _NOWHERE
        return keys, places

    def _sorted(
        self, keys: NDArray[np.float32], places: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best `count`, best first: scores and places. The parts' own scores are exact."""
        order = keys.argsort(kind="stable")[:count]
        places = places[order]
        there = int(np.count_nonzero(places >= 0))  # who is nowhere comes last
        return self._true(keys[order[:there]]), places[:there]

    def _rescored(
        self, query: NDArray[Any], places: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best `count`, best first: scores and places, by the rows of all."""
        places.sort()
        bounds = places.searchsorted(self._bounds).tolist()
        chosen = [
            (table.rows, places[first:end] - start if start else places[first:end])
            for table, start, (first, end) in zip(self._tables, self._starts, pairwise(bounds), strict=False)
            if first < end
        ]
        if not chosen:
            return np.empty(0, np.float32), places[:0]
        scores, best = self._space.best(query, chosen, count)
        return scores, places[bounds[0] :][best]

    def _true(self, keys: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores from the sorting keys of an index that holds the rows themselves."""
        scores: NDArray[np.float32]
        match self._space.metric:
            case "l2":
                scores = np.sqrt(np.maximum(keys, 0))
            case "cosine":
                scores = np.clip(-keys, -1, 1)
            case "inner_product" | "jaccard":
                scores = -keys
            case _:
                scores = keys.copy()
        return scores

    def _named(self, places: list[int], scores: NDArray[np.float32], k: int) -> tuple[Neighbours, bool]:
        """With ids, each once: of a row and its replacement the newer. Whether there was such a pair."""
        starts, tables = self._starts, self._tables
        owners = [bisect_right(starts, place) - 1 for place in places]
        ids = [tables[owner].ids[place - starts[owner]] for owner, place in zip(owners, places, strict=True)]
        if len(set(ids)) == len(ids):
            return Neighbours(tuple(ids[:k]), scores[:k]), False
        newest: dict[str, tuple[int, int]] = {}  # seq and rank
        for rank, (id_, owner, place) in enumerate(zip(ids, owners, places, strict=True)):
            seq = int(tables[owner].seqs[place - starts[owner]])
            newest[id_] = max(newest.get(id_, (seq, rank)), (seq, rank))
        kept = sorted(rank for _, rank in newest.values())[:k]
        return Neighbours(tuple(ids[rank] for rank in kept), scores[kept]), True
