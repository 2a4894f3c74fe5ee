"""A search of one view: every part and buffer is asked for candidates, the dead are dropped, the rest is ranked.

It takes no lock. The newest buffer comes last: a row that died because it was replaced was replaced there first, so
that a search which meets it dead meets its successor, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.embedded.codes import Codes, Probe
from deployments.similarity.embedded.exact import knn, nearest_positions
from deployments.similarity.embedded.gpu import MAX_K as GPU_MAX_K
from deployments.similarity.embedded.ranking import Candidates, Found, Ranking
from deployments.similarity.embedded.segment import Part
from deployments.similarity.embedded.table import Codebooks, Table
from deployments.similarity.embedded.view import Buffer, View
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import Space
from deployments.similarity.values import Filter, Neighbours

_NARROW = 0.02  # share of a part's rows under which scoring them all beats searching the codes
_FEW = 2048
_INEXACT = ("jaccard", "l2")  # FAISS sees signatures; it takes |a|^2 + |b|^2 - 2ab, which loses small distances
_NARROW_GRAPH = 0.2  # a graph walked through rows that do not count loses its way sooner


class Searcher:
    """Searches views of one index. Stateless."""

    def __init__(self, space: Space, codes: Codes, settings: IndexSettings, books: Codebooks) -> None:
        self._space = space
        self._codes = codes
        self._books = books
        self._per_neighbour = settings.candidates_per_neighbour
        self._graph = settings.index_type == "HNSW"

    def nearest(
        self,
        view: View,
        queries: Sequence[NDArray[Any]],
        k: int,
        *,
        filter: Filter | None,
        excluded: Sequence[int],
        threshold: float | None,
        exact: bool,
        effort: int | None = None,
    ) -> Found:
        """queries: as `Space.query` gives; excluded: seqs of the items the filter excludes."""
        vectors = self._space.stacked(queries)
        want = max(k * self._per_neighbour, k + 16)
        probes: dict[str, Probe] = {}
        found = []
        for part in view.parts():
            mask = None if filter is None else part.table.passing(filter, self._books, excluded)
            found.append(self._from_part(part, queries, vectors, want, mask, exact, probes, effort))
        found += [self._from_buffer(buffer, queries, vectors, want, filter, excluded) for buffer in view.buffers()]
        met = [candidates for candidates in found if candidates is not None]
        if not met:
            return Found([Neighbours((), np.empty(0, np.float32)) for _ in queries], False)
        return Ranking(self._space, self._codes.ascending, met).best(queries, k, want, threshold)

    def _from_buffer(
        self,
        buffer: Buffer,
        queries: Sequence[NDArray[Any]],
        vectors: NDArray[Any],
        want: int,
        filter: Filter | None,
        excluded: Sequence[int],
    ) -> Candidates | None:
        table, inputs = buffer.look()
        if not len(table):
            return None
        if filter is not None:
            chosen = np.flatnonzero(table.passing(filter, self._books, excluded))
            return self._scored(table, queries, [chosen] * len(queries))
        scores, positions = knn(self._space, vectors, inputs, min(len(table), want + buffer.dead))
        _drop_dead(table, positions)
        return Candidates(table, scores, positions, self._space.metric not in _INEXACT)

    def _from_part(
        self,
        part: Part,
        queries: Sequence[NDArray[Any]],
        vectors: NDArray[Any],
        want: int,
        mask: NDArray[np.bool_] | None,
        exact: bool,
        probes: dict[str, Probe],
        effort: int | None,
    ) -> Candidates | None:
        if exact or mask is not None:
            chosen = np.flatnonzero(part.table.alive if mask is None else mask)
            if not len(chosen):
                return None
            if exact or self._space.binary or self._narrow(len(chosen), len(part)):
                best = nearest_positions(self._space, queries, part.table, chosen, want)
                return self._scored(part.table, queries, best)
        probe = self._probe(part, vectors, probes, effort)
        dead = part.dead
        if mask is not None:
            return self._of_codes(part, *self._codes.search(part.index, probe, want, mask))
        spare = min(dead, 4 + 4 * want * dead // len(part)) if dead else 0
        if part.gpu is not None and want + spare <= GPU_MAX_K:
            scores, positions = part.gpu.search(probe, min(want + spare, len(part)))
        else:
            scores, positions = self._codes.search(part.index, probe, want + spare)
        if dead and self._crowded(part, positions, min(want, len(part) - dead), spare):
            if self._space.binary:
                chosen = np.flatnonzero(part.table.alive)
                best = nearest_positions(self._space, queries, part.table, chosen, want)
                return self._scored(part.table, queries, best)
            scores, positions = self._codes.search(part.index, probe, want, part.table.alive.copy())
        return self._of_codes(part, scores, positions)

    def _crowded(self, part: Part, positions: NDArray[np.int64], needed: int, spare: int) -> bool:
        """Whether some query found more, and yet the dead left it fewer than `needed`. (n, needed + spare) or less."""
        living = part.table.alive.take(positions)
        if living.size - np.count_nonzero(living) <= spare:
            return False
        return bool((living.sum(axis=1)[positions[:, -1] >= 0] < needed).any())

    def _of_codes(self, part: Part, scores: NDArray[Any], positions: NDArray[np.int64]) -> Candidates:
        _drop_dead(part.table, positions)
        rows_themselves = (self._codes.exact or part.template is None) and part.gpu is None
        exact = rows_themselves and self._space.metric not in _INEXACT
        return Candidates(part.table, scores.astype(np.float32, copy=False), positions, exact)

    def _probe(self, part: Part, vectors: NDArray[Any], probes: dict[str, Probe], effort: int | None) -> Probe:
        """Queries meet a template's centroids once, however many segments share it."""
        if part.template is None:
            return self._codes.flat_probe(vectors)
        probe = probes.get(part.template.name)
        if probe is None:
            probe = probes[part.template.name] = self._codes.probe(part.template, vectors, effort)
        return probe

    def _narrow(self, chosen: int, rows: int) -> bool:
        return chosen <= _FEW or chosen < rows * (_NARROW_GRAPH if self._graph else _NARROW)

    def _scored(
        self, table: Table, queries: Sequence[NDArray[Any]], chosen: Sequence[NDArray[np.intp]]
    ) -> Candidates | None:
        """Candidates with exact scores in the index's own terms."""
        width = max(len(positions) for positions in chosen)
        if not width:
            return None
        scores = np.full((len(queries), width), np.inf if self._codes.ascending else -np.inf, np.float32)
        positions = np.full((len(queries), width), -1, np.int64)
        for row, (query, some) in enumerate(zip(queries, chosen, strict=True)):
            exact = self._space.scores(query, table.rows.take(some))
            if self._space.metric == "l2":
                exact = exact**2  # as FAISS has it
            elif self._space.metric == "jaccard":
                exact = -exact  # the index's signatures give distances
            scores[row, : len(some)], positions[row, : len(some)] = exact, some
        _drop_dead(table, positions)
        return Candidates(table, scores, positions, self._space.metric not in _INEXACT)


def _drop_dead(table: Table, positions: NDArray[np.int64]) -> None:
    living = table.alive.take(positions, mode="wrap")
    if np.count_nonzero(living) < living.size:
        positions[~living] = -1
