"""float16 rows as FAISS reads them: converted, or scored as they lie. Exact both; numpy's conversion is slower.

A score needs no converted copy: FAISS multiplies halves on the way through the processor, three times as fast as
converting the rows and then multiplying.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from deployments.similarity.faiss_threads import one_thread

_SCRATCH_BYTES = 512 << 10  # of a thread: rows are scored out of the cache
_this_thread = threading.local()


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


def _scanned(matrix: NDArray[np.float16], query: NDArray[np.float32], metric: int) -> NDArray[np.float32] | None:
    """None where a score is no number or beyond float32, which FAISS leaves out."""
    scanner = _scanner(matrix.shape[1], metric)
    query = np.ascontiguousarray(query, dtype=np.float32)
    scores = np.empty(len(matrix), np.float32)
    for start in range(0, len(matrix), scanner.capacity):
        if not scanner.scan(matrix[start : start + scanner.capacity], query, scores[start:]):
            return None
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
        self._rows = codes.view(np.float16).reshape(self.capacity, dimension)

    def scan(self, rows: NDArray[np.float16], query: NDArray[np.float32], out: NDArray[np.float32]) -> bool:
        """Whether all rows have a score; those are put into the first entries of `out`."""
        one_thread()
        n = len(rows)
        self._rows[:n] = rows
        self._index.ntotal = n
        scores, positions = np.empty(n, np.float32), np.empty(n, np.int64)
        self._index.search_c(
            1, faiss.swig_ptr(query), n, faiss.swig_ptr(scores), faiss.swig_ptr(positions)
        )  # all of them, in FAISS' order
        out[positions] = scores
        return bool(positions[-1] >= 0)


@cache
def _decoder(dimension: int) -> Any:
    return faiss.ScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16)
