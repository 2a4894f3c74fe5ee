"""Exact nearest rows of a table, in chunks that stay in the cache: for narrow filters, and for the truth of recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from deployments.similarity.embedded.table import Table
from deployments.similarity.faiss_threads import one_thread
from deployments.similarity.rows import Rows
from deployments.similarity.spaces import Space

_CHUNK_BYTES = 4 << 20


def nearest_positions(
    space: Space, queries: Sequence[NDArray[Any]], table: Table, positions: NDArray[np.intp], k: int
) -> list[NDArray[np.intp]]:
    """For each query the positions of its k best rows among `positions`, in no order."""
    found: list[list[tuple[NDArray[np.float32], NDArray[np.intp]]]] = [[] for _ in queries]
    for start in range(0, len(positions), chunk := chunk_rows(space)):
        some = positions[start : start + chunk]
        rows = table.rows.take(some)
        for query, (scores, best) in enumerate(_best(space, queries, rows, k)):
            found[query].append((scores, some[best]))
    return [_best_of(space, parts, k) for parts in found]


def knn(
    space: Space, queries: NDArray[Any], inputs: NDArray[Any], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(n, k) FAISS' scores and positions of the k best; both sides as `Space.codes_input` gives, k at most len(inputs).

    Squared distances are taken as |a|^2 + |b|^2 - 2ab, which loses small ones.
    """
    one_thread()
    if space.binary:
        scores, positions = faiss.knn_hamming(queries, inputs, k)
        return scores.astype(np.float32), positions
    scores, positions = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    search = faiss.knn_L2sqr if space.metric == "l2" else faiss.knn_inner_product
    search(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(inputs),
        inputs.shape[1],
        len(queries),
        len(inputs),
        k,
        faiss.swig_ptr(scores),
        faiss.swig_ptr(positions),
    )
    return scores, positions


def chunk_rows(space: Space) -> int:
    """Rows whose float32 form fills a chunk."""
    return max(256, _CHUNK_BYTES // (4 * (space.row_width or 256)))


def _best(
    space: Space, queries: Sequence[NDArray[Any]], rows: Rows, k: int
) -> list[tuple[NDArray[np.float32], NDArray[np.intp]]]:
    k = min(k, len(rows))
    if space.metric == "jaccard":
        all_scores = [space.scores(query, rows) for query in queries]
        return [(scores[best], best) for scores in all_scores for best in [space.order(scores)[:k]]]
    scores, positions = knn(space, space.codes_input(space.pack(queries)), space.codes_input(rows), k)
    return list(zip(scores, positions, strict=True))


def _best_of(space: Space, parts: list[tuple[NDArray[np.float32], NDArray[np.intp]]], k: int) -> NDArray[np.intp]:
    if not parts:
        return np.empty(0, np.intp)
    scores = np.concatenate([part[0] for part in parts])
    positions = np.concatenate([part[1] for part in parts])
    return positions[space.order(scores)[:k]]
