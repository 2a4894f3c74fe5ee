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
    one_thread()
    inputs, stacked = space.codes_input(rows), space.codes_input(space.pack(queries))
    if space.binary:
        scores, positions = faiss.knn_hamming(stacked, inputs, k)
    else:
        scores, positions = faiss.knn(
            stacked, inputs, k, faiss.METRIC_L2 if space.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        )
    return list(zip(scores.astype(np.float32), positions, strict=True))


def _best_of(space: Space, parts: list[tuple[NDArray[np.float32], NDArray[np.intp]]], k: int) -> NDArray[np.intp]:
    if not parts:
        return np.empty(0, np.intp)
    scores = np.concatenate([part[0] for part in parts])
    positions = np.concatenate([part[1] for part in parts])
    return positions[space.order(scores)[:k]]
