"""Each index type: recall@10 against queries/s, build time, bytes a vector; beside plain FAISS and its rivals.

Every index is searched by one thread, one query a call, at the least effort that reaches the target recall on these
queries. The embedded index answers with exact scores and string ids from durable rows; the others with numbers.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Row, against
from benchmarks.similarity.data import Vectors, embeddings, neighbours, recall
from benchmarks.similarity.indexes import embedded, load
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.settings import IndexType

_K = 10
_TARGET = 0.95
_TYPES: tuple[IndexType, ...] = ("FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW", "IVF_PQ", "IVF_RABITQ")
_LADDER = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)

Search = Callable[[Vectors, int], list[list[int]]]
"""(queries, effort) -> ids."""


def rows(n: int, d: int, queries: int, types: Iterable[IndexType] = _TYPES, *, peers: bool = True) -> list[Row]:
    vectors, asked = embeddings(n, d), embeddings(queries, d, seed=1)
    truth = neighbours(vectors, asked, _K)
    faiss.omp_set_num_threads(1)
    measured: list[Row] = []
    bytes_of: dict[str, float] = {}
    for index_type in types:
        with embedded(vectors[:0], index_type) as index:
            build_s = load(index, vectors)
            stats = index.stats()
            bytes_of[index_type] = (stats.memory_bytes - index.view.buffer.nbytes) / n
            tuned = recall(_numbers(index, asked, None), truth)
            name = f"{index_type.lower()}_d{d}"
            measured.append(
                Row(f"recall_at_10_{name}", tuned, f"as tuned by itself (effort {stats.details['effort']})")
            )
            if index_type == "IVF_SQ8":
                measured.append(Row("recall_at_10_tuned", tuned, f"IVF_SQ8, d={d}, {n} rows"))
            measured += _speed(name, lambda some, effort, index=index: _numbers(index, some, effort), asked, truth)  # type: ignore[misc]
            measured.append(Row(f"build_s_{name}", build_s, "s, durable rows and training"))
            measured.append(Row(f"bytes_per_vector_{name}", bytes_of[index_type], "B resident"))
    if "FLAT" in bytes_of and "IVF_SQ8" in bytes_of:
        measured.append(Row("sq8_bytes_over_flat", bytes_of["IVF_SQ8"] / bytes_of["FLAT"], f"of FLAT's bytes, d={d}"))
    if peers:
        measured += _peers(vectors, asked, truth)
    return measured


def nlist_rows(n: int, d: int, queries: int) -> list[Row]:
    """Whether about sqrt(n) lists are a good rule: time of a query at equal recall."""
    vectors, asked = embeddings(n, d), embeddings(queries, d, seed=1)
    truth = neighbours(vectors, asked, _K)
    speeds = {}
    for factor in (1, 4):
        nlist = int(factor * n**0.5)
        with embedded(vectors, "IVF_SQ8", nlist=nlist) as index:
            at_target = _at_target(lambda some, effort, index=index: _numbers(index, some, effort), asked, truth)  # type: ignore[misc]
            speeds[factor] = at_target[0]
    return [against(f"qps_4_sqrt_n_lists_d{d}", speeds[4], "queries/s (baseline: sqrt(n) lists)", speeds[1])]


def _numbers(index: EmbeddedIndex, queries: Vectors, effort: int | None) -> list[list[int]]:
    return [[int(id_) for id_ in index.search(query[None], _K, effort=effort)[0].ids] for query in queries]


def _speed(name: str, search: Search, queries: Vectors, truth: NDArray[np.int64]) -> list[Row]:
    speed, effort, reached = _at_target(search, queries, truth)
    return [Row(f"qps_{name}", speed, f"queries/s at recall {reached:.3f} (effort {effort})")]


def _at_target(search: Search, queries: Vectors, truth: NDArray[np.int64]) -> tuple[float, int, float]:
    """(queries/s, effort, recall) of the least effort that reaches the target, or of the most there is."""
    effort, reached = 0, 0.0
    for effort in _LADDER:
        reached = recall(search(queries[:300], effort), truth[:300])
        if reached >= _TARGET:
            break
    started = time.perf_counter()
    search(queries, effort)
    return len(queries) / (time.perf_counter() - started), effort, reached


def _peers(vectors: Vectors, queries: Vectors, truth: NDArray[np.int64]) -> list[Row]:
    measured: list[Row] = []
    d = vectors.shape[1]
    for name, make in _PEERS.items():
        try:
            started = time.perf_counter()
            search = make(vectors)
            build_s = time.perf_counter() - started
        except ImportError:
            measured.append(Row(f"qps_{name}_d{d}", float("nan"), "not installed (extra: bench)"))
            continue
        measured += _speed(f"{name}_d{d}", search, queries, truth)
        measured.append(Row(f"build_s_{name}_d{d}", build_s, "s, in memory"))
    return measured


def _plain(factory: str) -> Callable[[Vectors], Search]:
    def make(vectors: Vectors) -> Search:
        index = faiss.index_factory(
            vectors.shape[1], factory.format(int(4 * len(vectors) ** 0.5)), faiss.METRIC_INNER_PRODUCT
        )
        if hasattr(index, "cp"):
            index.cp.max_points_per_centroid = 64
        index.train(vectors)
        index.add(vectors)

        def search(queries: Vectors, effort: int) -> list[list[int]]:
            if hasattr(index, "nlist"):
                parameters = faiss.SearchParametersIVF(nprobe=effort)
            else:
                parameters = faiss.SearchParametersHNSW(efSearch=effort)
            return [index.search(query[None], _K, params=parameters)[1][0].tolist() for query in queries]

        return search

    return make


def _usearch(vectors: Vectors) -> Search:
    library = importlib.import_module("usearch.index")
    index = library.Index(ndim=vectors.shape[1], metric="cos", dtype="bf16", connectivity=16, expansion_add=128)
    index.add(np.arange(len(vectors)), vectors, threads=1)

    def search(queries: Vectors, effort: int) -> list[list[int]]:
        index.expansion_search = effort
        return [index.search(query, _K, threads=1).keys.tolist() for query in queries]

    return search


def _hnswlib(vectors: Vectors) -> Search:
    library: Any = importlib.import_module("hnswlib")
    index = library.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=128, M=16)
    index.add_items(vectors, num_threads=1)
    index.set_num_threads(1)

    def search(queries: Vectors, effort: int) -> list[list[int]]:
        index.set_ef(max(effort, _K))
        return [index.knn_query(query, _K)[0][0].tolist() for query in queries]

    return search


def _scann(vectors: Vectors) -> Search:
    library: Any = importlib.import_module("scann")
    builder = library.scann_ops_pybind.builder(vectors, _K, "dot_product")
    leaves = int(len(vectors) ** 0.5)
    index = builder.tree(leaves, 10, training_sample_size=min(len(vectors), 250_000)).score_ah(2).reorder(100).build()

    def search(queries: Vectors, effort: int) -> list[list[int]]:
        return [index.search(query, leaves_to_search=min(effort, leaves))[0].tolist() for query in queries]

    return search


_PEERS: dict[str, Callable[[Vectors], Search]] = {
    "plain_faiss_ivf_sq8": _plain("IVF{},SQ8"),
    "plain_faiss_hnsw_sq8": _plain("HNSW16_SQ8"),
    "usearch_bf16": _usearch,
    "hnswlib": _hnswlib,
    "scann": _scann,
}
