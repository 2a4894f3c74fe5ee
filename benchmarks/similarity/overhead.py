"""What durability, live updates and string ids cost a search: the embedded index against plain FAISS.

Same vectors, nlist and nprobe, both re-rank the same number of candidates from float16 rows, one thread each. The
embedded one has rows in its buffer, gathered rows and tombstones, as in use. `refine` is FAISS' own refinement beside
it, without ids that are strings: how far a search stays behind what C++ alone can do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import faiss
import numpy as np

from benchmarks.report import Row, against, median
from benchmarks.similarity.data import Vectors, embeddings, neighbours, recall
from benchmarks.similarity.indexes import FaissRefine, PlainFaiss, embedded, items

_K = 10


def rows(n: int, d: int, rounds: int) -> list[Row]:
    vectors = embeddings(n, d)
    queries = embeddings(256, d, seed=1)
    faiss.omp_set_num_threads(1)
    with embedded(vectors) as index:
        index.delete([str(number) for number in range(0, n, 50)])
        late = embeddings(800, d, seed=2)
        index.upsert(items(late[:700], n))
        index.upkeep.gather()
        index.upsert(items(late[700:], n + 700))
        details = index.stats().details
        plain = PlainFaiss(vectors, details["nlist"], details["effort"])
        candidates = max(_K * index.settings.candidates_per_neighbour, _K + 16)
        found = [[int(id_) for id_ in hit.ids] for hit in index.search(queries, _K)]
        living = np.setdiff1d(np.arange(n + len(late)), np.arange(0, n, 50))
        truth = living[neighbours(np.concatenate([vectors, late])[living], queries, _K)]
        refine = FaissRefine(vectors, details["nlist"], details["effort"])
        speeds = {
            size: _speeds(
                (
                    lambda some: index.search(some, _K),
                    lambda some: plain.search(some, _K, candidates),
                    lambda some: refine.search(some, _K, candidates),
                ),
                queries,
                size,
                rounds,
            )
            for size in (1, 32)
        }
    measured = [Row("overhead_recall_at_10", recall(found, truth), "")]
    for size, (ours, theirs, best) in speeds.items():
        measured.append(against(f"qps_over_plain_faiss_batch{size}", ours / theirs, "", 1.0))
        measured.append(against(f"qps_over_faiss_refine_batch{size}", ours / best, "", 1.0))
        measured.append(against(f"qps_d{d}_batch{size}", ours, "queries/s (baseline: plain FAISS)", theirs))
    return measured


def _speeds(
    searches: Sequence[Callable[[Vectors], object]], queries: Vectors, size: int, rounds: int
) -> tuple[float, ...]:
    """Median queries/s of each, rounds interleaved."""
    speeds: list[list[float]] = [[] for _ in searches]
    for _ in range(rounds):
        for search, kept in zip(searches, speeds, strict=True):
            started = time.perf_counter()
            for start in range(0, len(queries) - size + 1, size):
                search(queries[start : start + size])
            kept.append(len(queries) // size * size / (time.perf_counter() - started))
    return tuple(median(kept) for kept in speeds)
