"""float16 rows as FAISS reads them: converted, or scored as they lie. Exact both; numpy's conversion is slower.

A score needs no converted copy: FAISS multiplies halves on the way through the processor, three times as fast as
converting the rows and then multiplying.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from deployments.similarity.faiss_threads import one_thread

_SCRATCH_BYTES = 512 << 10  # of a thread: rows are scored out of the cache
_this_thread = threading.local()
_set_ntotal = faiss.Index.ntotal.fset  # past a check of names that FAISS does for people, in Python


def single(matrix: NDArray[Any]) -> NDArray[np.float32]:
    """(n, d) float16 or float32 as float32."""
    if matrix.dtype != np.float16 or not len(matrix):
        return np.ascontiguousarray(matrix, dtype=np.float32)
    decoded: NDArray[np.float32] = _decoder(matrix.shape[1]).decode(np.ascontiguousarray(matrix).view(np.uint8))
    return decoded


def inner_products(matrix: NDArray[Any], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) of float16 or float32 rows with a float32 query, summed in float32."""
    scores = _scanned(matrix, query, faiss.METRIC_INNER_PRODUCT) if matrix.dtype == np.float16 else None
    return single(matrix).dot(query) if scores is None else scores


def squared_distances(matrix: NDArray[Any], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) the sums of squared differences: no small distance is lost between long vectors."""
    scores = _scanned(matrix, query, faiss.METRIC_L2) if matrix.dtype == np.float16 else None
    if scores is None:
        difference = single(matrix) - query
        scores = np.einsum("nd,nd->n", difference, difference)
    return scores


def nearest(
    chosen: Sequence[tuple[NDArray[Any], NDArray[np.intp]]],
    query: NDArray[np.float32],
    count: int,
    *,
    distances: bool,
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """The best `count` rows at some positions of some matrices, best first: inner products or squared distances, and
    positions among the chosen. None where float16 scoring does not do: the caller takes the long way.
    """
    matrix = chosen[0][0]
    if matrix.dtype != np.float16:
        return None
    scanner = _scanner(matrix.shape[1], faiss.METRIC_L2 if distances else faiss.METRIC_INNER_PRODUCT)
    filled = scanner.fill(chosen)
    return scanner.scan(query, filled, min(count, filled)) if filled else None


def _scanned(matrix: NDArray[np.float16], query: NDArray[np.float32], metric: int) -> NDArray[np.float32] | None:
    scanner = _scanner(matrix.shape[1], metric)
    scores = np.empty(len(matrix), np.float32)
    for start in range(0, len(matrix), scanner.capacity):
        rows = matrix[start : start + scanner.capacity]
        scanner.rows[: len(rows)] = rows
        found = scanner.scan(query, len(rows), len(rows))
        if found is None:
            return None
        scores[start + found[1]] = found[0]
    return scores


def _scanner(dimension: int, metric: int) -> _Scanner:
    """This thread's."""
    scanners: dict[tuple[int, int], _Scanner] = _this_thread.__dict__.setdefault("scanners", {})
    scanner = scanners.get((dimension, metric))
    if scanner is None:
        scanner = scanners[dimension, metric] = _Scanner(dimension, metric)
    return scanner


class _Scanner:
    """A flat FAISS index over float16 whose rows are overwritten for each scan."""

    def __init__(self, dimension: int, metric: int) -> None:
        self.capacity = max(1, _SCRATCH_BYTES // (2 * dimension))
        self._index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, metric)
        self._index.add_sa_codes(np.zeros((self.capacity, 2 * dimension), np.uint8))
        codes = faiss.rev_swig_ptr(self._index.codes.data(), self.capacity * 2 * dimension)
        self.rows = codes.view(np.float16).reshape(self.capacity, dimension)

    def fill(self, chosen: Sequence[tuple[NDArray[Any], NDArray[np.intp]]]) -> int:
        """How many rows there are now; 0 where they are too many."""
        filled = 0
        for matrix, positions in chosen:
            start, filled = filled, filled + len(positions)
            if filled > self.capacity:
                return 0
            matrix.take(positions, axis=0, out=self.rows[start:filled], mode="clip")  # "raise" would go by a copy
        return filled

    def scan(
        self, query: NDArray[np.float32], filled: int, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """The best `count`. None where a score is no number or beyond float32, which FAISS leaves out."""
        one_thread()
        _set_ntotal(self._index, filled)
        query = np.ascontiguousarray(query, dtype=np.float32)
        scores, positions = np.empty(count, np.float32), np.empty(count, np.int64)
        self._index.search_c(1, faiss.swig_ptr(query), count, faiss.swig_ptr(scores), faiss.swig_ptr(positions))
        return None if positions[-1] < 0 else (scores, positions)


@cache
def _decoder(dimension: int) -> Any:
    return faiss.ScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16)
