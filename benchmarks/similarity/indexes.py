"""The embedded index and plain FAISS, set up alike."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.similarity.data import Vectors
from deployments.similarity.content import EncoderId
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.halves import single
from deployments.similarity.settings import IndexSettings, IndexType
from deployments.similarity.values import Item

ENCODER = EncoderId("benchmark", "1")
_BATCH = 2000


def items(vectors: Vectors, first: int = 0) -> list[Item]:
    return [Item(str(number), vector, created_at=float(number)) for number, vector in enumerate(vectors, first)]


@contextmanager
def embedded(vectors: Vectors, index_type: IndexType = "IVF_SQ8", **settings: object) -> Iterator[EmbeddedIndex]:
    """Loaded, trained and tuned, in a directory that goes with it. `build_s` says how long that took."""
    with tempfile.TemporaryDirectory(prefix="parakh-benchmark-") as directory:
        given = IndexSettings.model_validate({"index_type": index_type, **settings})
        index = EmbeddedIndex.open(Path(directory), given, vectors.shape[1], ENCODER)
        try:
            load(index, vectors)
            yield index
        finally:
            index.close()


def load(index: EmbeddedIndex, vectors: Vectors) -> float:
    """Seconds."""
    started = time.perf_counter()
    index.load(items(vectors[start : start + _BATCH], start) for start in range(0, len(vectors), _BATCH))
    return time.perf_counter() - started


class PlainFaiss:
    """FAISS as its manual shows it: one IVF_SQ8, candidates re-ranked from float16 rows; ids are numbers."""

    def __init__(self, vectors: Vectors, nlist: int, nprobe: int, factory: str = "SQ8") -> None:
        self.index = faiss.index_factory(vectors.shape[1], f"IVF{nlist},{factory}", faiss.METRIC_INNER_PRODUCT)
        self.index.cp.max_points_per_centroid = 64
        self.index.train(vectors[:: max(1, len(vectors) // (64 * nlist))])
        self.index.add_with_ids(vectors, np.arange(len(vectors)))
        self.index.set_direct_map_type(faiss.DirectMap.Hashtable)
        self.rows = vectors.astype(np.float16)
        self.nprobe = nprobe

    def search(self, queries: Vectors, k: int, candidates: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and ids, (n, k)."""
        parameters = faiss.SearchParametersIVF(nprobe=self.nprobe)
        ids = self.index.search(queries, candidates, params=parameters)[1]
        scores = np.empty((len(queries), k), np.float32)
        best = np.empty((len(queries), k), np.int64)
        for row, query in enumerate(queries):
            found = ids[row][ids[row] >= 0]
            exact = single(self.rows.take(found, axis=0)) @ query
            order = np.argsort(-exact, kind="stable")[:k]
            scores[row, : len(order)], best[row, : len(order)] = exact[order], found[order]
        return scores, best


class FaissRefine:
    """The fastest FAISS has for the same: IVF_SQ8 and its own refinement from float16 codes, all of it in C++."""

    def __init__(self, vectors: Vectors, nlist: int, nprobe: int) -> None:
        d = vectors.shape[1]
        self._base = faiss.index_factory(d, f"IVF{nlist},SQ8", faiss.METRIC_INNER_PRODUCT)
        self._base.cp.max_points_per_centroid = 64
        self._rows = faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self.index = faiss.IndexRefine(self._base, self._rows)
        self.index.train(vectors[:: max(1, len(vectors) // (64 * nlist))])
        self.index.add(vectors)
        self.nprobe = nprobe

    def search(self, queries: Vectors, k: int, candidates: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and ids, (n, k)."""
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=candidates / k, base_index_params=faiss.SearchParametersIVF(nprobe=self.nprobe)
        )
        scores, ids = self.index.search(queries, k, params=parameters)
        return scores, ids
