"""What a search sees: segments, the rows gathered in memory, write buffers. Swapped whole, never changed in place.

A search takes no lock. It asks every part for candidates, drops the dead, and scores the rest exactly from the rows.
The newest buffer comes last: a row that died because it was replaced was replaced there first, so that a search which
meets it dead meets its successor, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from deployments.similarity.embedded.codes import Codes, Probe, one_thread
from deployments.similarity.embedded.exact import nearest_positions
from deployments.similarity.embedded.gpu import MAX_K as GPU_MAX_K
from deployments.similarity.embedded.segment import Part
from deployments.similarity.embedded.stored import StoredRow
from deployments.similarity.embedded.table import Codebooks, GrowingTable, Table
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import Space
from deployments.similarity.values import Filter, Neighbours

_NARROW = 0.02  # share of a part's rows under which scoring them all beats searching the codes
_FEW = 2048
_INEXACT = ("jaccard", "l2")  # FAISS sees signatures; it takes |a|^2 + |b|^2 - 2ab, which loses small distances
_NARROW_GRAPH = 0.2  # a graph walked through rows that do not count loses its way sooner


class Buffer:
    """The newest rows, searched exactly. One thread appends: rows first, the count last."""

    def __init__(self, space: Space, capacity: int, books: Codebooks) -> None:
        self._space = space
        self._table = GrowingTable(space, capacity, books)
        width = space.code_dimension // 8 if space.binary else space.dimension
        self._inputs = np.empty((capacity, width), np.uint8 if space.binary else np.float32)
        self.dead = 0

    def __len__(self) -> int:
        return self._table.count

    @property
    def capacity(self) -> int:
        return self._table.capacity

    @property
    def room(self) -> int:
        return self._table.capacity - self._table.count

    @property
    def nbytes(self) -> int:
        return int(self._inputs.nbytes) + self._table.view().rows.nbytes

    def append(self, stored: Sequence[StoredRow], rows: Sequence[NDArray[Any]]) -> None:
        start = self._table.count
        self._inputs[start : start + len(rows)] = self._space.codes_input(self._space.pack(rows))
        self._table.append(stored, rows)

    def view(self) -> tuple[Table, NDArray[Any]]:
        table = self._table.view()
        return table, self._inputs[: len(table)]

    def look(self) -> tuple[Table, NDArray[Any]]:
        """As `view`, with `alive` of a moment before: whatever had been replaced by then, its successor is here."""
        alive = self._table.alive_now()
        table, inputs = self.view()
        return dataclasses.replace(table, alive=alive[: len(table)]), inputs

    def as_part(self) -> Part:
        """Its rows, for the upkeep to take on; not to be searched."""
        return Part(self._table.view(), None, None, np.empty(0, np.int32))

    def kill(self, seq: int) -> bool:
        table = self._table.view()
        position = table.position(seq)
        if position is None or not table.alive[position]:
            return False
        table.alive[position] = False
        self.dead += 1
        return True


@dataclass(frozen=True)
class View:
    segments: tuple[Part, ...]
    gathered: Part | None  # sealed rows in memory, indexed, not yet a segment
    sealed: tuple[Buffer, ...]  # full, waiting to be gathered
    buffer: Buffer

    def parts(self) -> tuple[Part, ...]:
        return self.segments if self.gathered is None else (*self.segments, self.gathered)

    def buffers(self) -> tuple[Buffer, ...]:
        return (*self.sealed, self.buffer)

    def newest_first(self) -> Iterator[Part | Buffer]:
        yield from reversed(self.buffers())
        yield from reversed(self.parts())


@dataclass(frozen=True)
class Found:
    """doubled: a row and its replacement were met; of the two the newer counts, and there may be one too few."""

    neighbours: list[Neighbours]
    doubled: bool


@dataclass(frozen=True)
class _Candidates:
    table: Table
    scores: NDArray[np.float32]  # (n, c) the index's own
    positions: NDArray[np.int64]  # (n, c), -1 for none
    exact: bool  # the scores follow from the rows, not from codes


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
            candidates = self._from_part(part, queries, vectors, want, mask, exact, probes, effort)
            if candidates is not None:
                _drop_dead(candidates)
                found.append(candidates)
        for buffer in view.buffers():
            candidates = self._from_buffer(buffer, queries, vectors, want, filter, excluded)
            if candidates is not None:
                _drop_dead(candidates)
                found.append(candidates)
        if not found:
            return Found([Neighbours((), np.empty(0, np.float32)) for _ in queries], False)
        return Found(*self._ranked(queries, found, k, want, threshold))

    def _from_buffer(
        self,
        buffer: Buffer,
        queries: Sequence[NDArray[Any]],
        vectors: NDArray[Any],
        want: int,
        filter: Filter | None,
        excluded: Sequence[int],
    ) -> _Candidates | None:
        table, inputs = buffer.look()
        if not len(table):
            return None
        if filter is not None:
            chosen = np.flatnonzero(table.passing(filter, self._books, excluded))
            return self._scored(table, queries, [chosen] * len(queries))
        one_thread()
        k = min(len(table), want + buffer.dead)
        if self._space.binary:
            scores, positions = faiss.knn_hamming(vectors, inputs, k)
            return _Candidates(table, scores.astype(np.float32), positions, self._space.metric == "hamming")
        metric = faiss.METRIC_L2 if self._space.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        scores, positions = faiss.knn(vectors, inputs, k, metric)
        return _Candidates(table, scores, positions, self._space.metric not in _INEXACT)

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
    ) -> _Candidates | None:
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
        if not dead:
            return self._of_codes(part, scores, positions)
        full = positions[:, -1] >= 0
        if full.any() and (part.table.alive[positions].sum(axis=1)[full] < min(want, len(part) - dead)).any():
            # the dead crowd out the living
            if self._space.binary:
                chosen = np.flatnonzero(part.table.alive)
                best = nearest_positions(self._space, queries, part.table, chosen, want)
                return self._scored(part.table, queries, best)
            scores, positions = self._codes.search(part.index, probe, want, part.table.alive.copy())
        return self._of_codes(part, scores, positions)

    def _of_codes(self, part: Part, scores: NDArray[Any], positions: NDArray[np.int64]) -> _Candidates:
        rows_themselves = (self._codes.exact or part.template is None) and part.gpu is None
        exact = rows_themselves and self._space.metric not in _INEXACT
        return _Candidates(part.table, scores.astype(np.float32, copy=False), positions, exact)

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
    ) -> _Candidates | None:
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
        return _Candidates(table, scores, positions, self._space.metric not in _INEXACT)

    def _ranked(
        self,
        queries: Sequence[NDArray[Any]],
        found: Sequence[_Candidates],
        k: int,
        want: int,
        threshold: float | None,
    ) -> tuple[list[Neighbours], bool]:
        """The best k of all parts' candidates by exact score; whether an item was there twice."""
        keys = np.concatenate([candidates.scores for candidates in found], axis=1)
        positions = np.concatenate([candidates.positions for candidates in found], axis=1)
        owners = np.repeat(np.arange(len(found)), [candidates.positions.shape[1] for candidates in found])
        if not self._codes.ascending:
            np.negative(keys, out=keys)
        keys[positions < 0] = np.inf
        exact = [candidates.exact for candidates in found]
        keep = k + 1 if all(exact) else want
        rows = np.arange(len(queries))[:, None]
        if self._space.metric != "jaccard" and keys.shape[1] > keep:
            best = np.argpartition(keys, keep - 1, axis=1)[:, :keep]
            keys, positions, owners = keys[rows, best], positions[rows, best], owners[best]
        else:
            owners = np.broadcast_to(owners, keys.shape)
        scores = self._true(keys) if any(exact) else np.empty_like(keys)
        for part, candidates in enumerate(found):
            if candidates.exact:
                continue
            mine = (owners == part) & (positions >= 0)
            counts = mine.sum(axis=1).tolist()
            rows_of = candidates.table.rows.take(positions[mine])
            scores[mine] = self._space.grouped_scores(queries, rows_of, counts)
        scores[positions < 0] = -np.inf if self._space.higher_is_better else np.inf
        order = np.argsort(-scores if self._space.higher_is_better else scores, axis=1, kind="stable")[:, : k + 1]
        scores, positions, owners = scores[rows, order], positions[rows, order], owners[rows, order]
        valid = positions >= 0
        if threshold is not None:
            valid &= self._space.better(scores, threshold)
        named = [
            _named(found, owners[row, valid[row]], positions[row, valid[row]], scores[row, valid[row]], k)
            for row in range(len(queries))
        ]
        return [neighbours for neighbours, _ in named], any(doubled for _, doubled in named)

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


def _drop_dead(candidates: _Candidates) -> None:
    positions = candidates.positions
    dead = ~candidates.table.alive[positions]
    dead &= positions >= 0
    if dead.any():
        positions[dead] = -1


def _named(
    found: Sequence[_Candidates],
    owners: NDArray[np.intp],
    places: NDArray[np.int64],
    scores: NDArray[np.float32],
    k: int,
) -> tuple[Neighbours, bool]:
    """With ids, each once: of a row and its replacement the newer. Whether there was such a pair."""
    tables = [candidates.table.ids for candidates in found]
    ids = [tables[owner][place] for owner, place in zip(owners.tolist(), places.tolist(), strict=True)]
    if len(set(ids)) == len(ids):
        return Neighbours(tuple(ids[:k]), scores[:k]), False
    newest: dict[str, int] = {}
    for position, id_ in enumerate(ids):
        seq = found[owners[position]].table.seqs[places[position]]
        before = newest.get(id_)
        if before is None or seq > found[owners[before]].table.seqs[places[before]]:
            newest[id_] = position
    kept = sorted(newest.values())[:k]
    return Neighbours(tuple(ids[i] for i in kept), scores[kept]), True
