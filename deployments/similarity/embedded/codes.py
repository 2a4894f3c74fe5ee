"""FAISS, and nothing else of it elsewhere: trained templates, indexes built from them, and their searches.

A *template* is an empty trained index with its inverted lists' centroids. Every segment of a partition is built from
the one template, so that a query is assigned to lists once and searched in all segments, and so that a segment is
rewritten without assigning its rows again. Positions in an index are 0..n-1, as the rows were added.

No index is changed once it is searched, and no search parameter is set on one: FAISS allows both to race.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from deployments.similarity.faiss_threads import one_thread
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import Space

DEFAULT_NPROBE = 24  # reached recall 0.95 at 1 M vectors whatever nlist was
DEFAULT_EF_SEARCH = 64
EF_CONSTRUCTION = 128
_TRAIN_PER_LIST = 64  # k-means needs no more rows for a centroid
_ROTATION_SEED = 0x70617261


@dataclass(frozen=True)
class Template:
    """name: which training. index: empty. rows: it was trained on so many of the partition. effort: nprobe or ef."""

    name: str
    index: Any
    rows: int
    effort: int

    @cached_property
    def inverted(self) -> bool:
        return hasattr(self.index, "nlist")

    @cached_property
    def quantizer(self) -> Any:
        """The index of the lists' centroids: FAISS makes a new Python object each time it is asked."""
        return self.index.quantizer

    @cached_property
    def nlist(self) -> int:
        return int(self.index.nlist)


class Codes:
    """How one space and one index type are built and searched. Stateless."""

    def __init__(self, space: Space, settings: IndexSettings) -> None:
        self._space = space
        self._settings = settings
        self._metric = faiss.METRIC_L2 if space.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self._rotation = _rotation(space.dimension) if settings.index_type == "IVF_RABITQ" else None

    @property
    def trains(self) -> bool:
        return self._settings.index_type != "FLAT"

    @property
    def exact(self) -> bool:
        """The trained codes hold the rows as they are: what the index scores needs no second look."""
        return self._settings.index_type in ("FLAT", "IVF_FLAT") and self._space.metric != "jaccard"

    @property
    def ascending(self) -> bool:
        """Whether the index's own scores rise along a result (distances)."""
        return self._space.binary or self._space.metric == "l2"

    def training_rows(self, rows: int) -> int:
        """How many rows a training on a partition of `rows` looks at."""
        return min(rows, _TRAIN_PER_LIST * self.nlist(rows))

    def nlist(self, rows: int) -> int:
        """4 x sqrt(rows): half the query time of sqrt(rows) at equal recall and a million rows."""
        return min(self._settings.nlist or max(1, round(4 * math.sqrt(rows))), max(1, rows))

    def train(self, name: str, sample: NDArray[Any], rows: int) -> Template:
        """sample: (n, d) as `Space.codes_input` gives; rows: the partition's size, which sets nlist."""
        one_thread()
        index = self._untrained(min(self.nlist(rows), len(sample)))
        index.train(self._turned(sample))
        return Template(name, index, rows, self._settings.nprobe or self._settings.ef_search or self._default_effort)

    def assign(self, template: Template, vectors: NDArray[Any]) -> NDArray[np.int32]:
        """(n,) the inverted list of each; zeros for an index without lists."""
        one_thread()
        if not template.inverted or not len(vectors):
            return np.zeros(len(vectors), np.int32)
        lists: NDArray[np.int32] = template.quantizer.search(self._turned(vectors), 1)[1][:, 0].astype(np.int32)
        return lists

    def empty(self, template: Template | None) -> Any:
        if template is not None:
            return faiss.clone_binary_index(template.index) if self._space.binary else _cloned(template.index)
        if self._space.binary:
            return faiss.IndexBinaryFlat(self._space.code_dimension)
        return faiss.IndexFlat(self._space.code_dimension, self._metric)

    def copy(self, index: Any) -> Any:
        return faiss.clone_binary_index(index) if self._space.binary else _cloned(index)

    def add(self, index: Any, vectors: NDArray[Any], lists: NDArray[np.int32]) -> None:
        """Append rows whose lists are known; positions go on from `ntotal`."""
        one_thread()
        if not len(vectors):
            return
        turned = self._turned(vectors) if hasattr(index, "nlist") else self._plain(vectors)
        if not hasattr(index, "nlist") or isinstance(
            index, faiss.IndexIVFFastScan
        ):  # packs codes in blocks: assigns anew
            index.add(turned)
            return
        positions = np.arange(index.ntotal, index.ntotal + len(turned), dtype=np.int64)
        assigned = np.ascontiguousarray(lists, dtype=np.int64)
        index.add_core(len(turned), faiss.swig_ptr(turned), faiss.swig_ptr(positions), faiss.swig_ptr(assigned))

    def probe(self, template: Template, queries: NDArray[Any], effort: int | None = None) -> Probe:
        """Which lists to search for each query: once for all segments of the template."""
        one_thread()
        turned = self._turned(queries)
        effort = effort or template.effort
        if not template.inverted:
            return Probe(turned, effort, None, None)
        nprobe = min(effort, template.nlist)
        distances, lists = self._nearest_lists(template, turned, nprobe)
        return Probe(turned, nprobe, lists, distances)

    def search(
        self, index: Any, probe: Probe, k: int, mask: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """(n, k) the index's own scores and positions, -1 where there are fewer. mask: positions that count."""
        one_thread()
        k = min(k, max(1, index.ntotal))
        if self._space.binary:
            return self._search_binary(index, probe, k)
        selector = None if mask is None else faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        if probe.lists is not None:
            return _search_lists(index, probe, k, selector)
        if isinstance(index, faiss.IndexHNSW):
            parameters = faiss.SearchParametersHNSW(efSearch=max(probe.effort, k), sel=selector)
        else:
            parameters = None if selector is None else faiss.SearchParameters(sel=selector)
        scores, positions = index.search(probe.queries, k, params=parameters)
        return scores, positions

    def flat_probe(self, queries: NDArray[Any]) -> Probe:
        """For an index without a template."""
        return Probe(self._plain(queries), 0, None, None)

    def memory_bytes(self, index: Any) -> int:
        """Resident bytes of the codes and lists, centroids included; HNSW links by their arrays."""
        if isinstance(index, faiss.IndexBinaryIVF | faiss.IndexIVF):
            lists = index.ntotal * (index.code_size + 8)
            return int(lists + index.nlist * index.quantizer.d * (1 / 8 if self._space.binary else 4))
        if isinstance(index, faiss.IndexHNSW):
            return int(index.ntotal * (index.storage.sa_code_size() + 4 * (2 * index.hnsw.nb_neighbors(1) + 2)))
        return int(index.ntotal * (index.code_size if self._space.binary else index.sa_code_size()))

    def _nearest_lists(
        self, template: Template, queries: NDArray[Any], nprobe: int
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """(n, nprobe) distances and lists. Past FAISS' checks in Python, which cost a single query 2 %."""
        shape = (len(queries), nprobe)
        distances = np.empty(shape, np.int32 if self._space.binary else np.float32)
        lists = np.empty(shape, np.int64)
        search = template.quantizer.search_c
        search(len(queries), faiss.swig_ptr(queries), nprobe, faiss.swig_ptr(distances), faiss.swig_ptr(lists))
        return distances, lists

    @property
    def _default_effort(self) -> int:
        return DEFAULT_EF_SEARCH if self._settings.index_type == "HNSW" else DEFAULT_NPROBE

    def _search_binary(self, index: Any, probe: Probe, k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        if probe.lists is None:
            scores, positions = index.search(probe.queries, k)
            return scores, positions
        n = len(probe.queries)
        scores, positions = np.empty((n, k), np.int32), np.empty((n, k), np.int64)
        index.search_preassigned_c(
            n,
            faiss.swig_ptr(np.ascontiguousarray(probe.queries)),
            k,
            faiss.swig_ptr(np.ascontiguousarray(probe.lists, np.int64)),
            faiss.swig_ptr(np.ascontiguousarray(probe.distances, np.int32)),
            faiss.swig_ptr(scores),
            faiss.swig_ptr(positions),
            False,
            faiss.SearchParametersIVF(nprobe=probe.effort),
        )
        return scores, positions

    def _turned(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """As trained indexes take them: rotated, where the codes want that."""
        return self._plain(vectors if self._rotation is None else vectors @ self._rotation)

    def _plain(self, vectors: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(vectors, dtype=np.uint8 if self._space.binary else np.float32)

    def _untrained(self, nlist: int) -> Any:
        d, metric = self._space.code_dimension, self._metric
        if self._space.binary:
            quantizer = faiss.IndexBinaryFlat(d)
            index = faiss.IndexBinaryIVF(quantizer, d, nlist)
            quantizer.this.disown()
            index.own_fields = True
            index.cp.min_points_per_centroid = 1
            return index
        match self._settings.index_type:
            case "HNSW":
                index = faiss.IndexHNSWSQ(d, faiss.ScalarQuantizer.QT_8bit, self._settings.hnsw_m, metric)
                index.hnsw.efConstruction = EF_CONSTRUCTION
                return index
            case "IVF_FLAT":
                factory = f"IVF{nlist},Flat"
            case "IVF_PQ":
                factory = f"IVF{nlist},PQ{d // 2}x4fs"
            case "IVF_RABITQ":
                factory = f"IVF{nlist},RaBitQfs"
            case _:
                factory = f"IVF{nlist},SQ8"
        index = faiss.index_factory(d, factory, metric)
        index.cp.max_points_per_centroid = _TRAIN_PER_LIST
        index.cp.min_points_per_centroid = 1  # a small list of centroids is no fault to warn of
        return index


@dataclass(frozen=True)
class Probe:
    """Queries as an index takes them, and the lists to search for each; no lists where the index has none."""

    queries: NDArray[Any]
    effort: int
    lists: NDArray[np.int64] | None  # (n, nprobe)
    distances: NDArray[Any] | None  # (n, nprobe) to their centroids


def _search_lists(index: Any, probe: Probe, k: int, selector: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    n = len(probe.queries)
    scores, positions = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
    index.search_preassigned_c(
        n,
        faiss.swig_ptr(probe.queries),
        k,
        faiss.swig_ptr(probe.lists),
        faiss.swig_ptr(probe.distances),
        faiss.swig_ptr(scores),
        faiss.swig_ptr(positions),
        False,
        _parameters(probe.effort) if selector is None else faiss.SearchParametersIVF(nprobe=probe.effort, sel=selector),
    )
    return scores, positions


@cache
def _parameters(nprobe: int) -> Any:
    """Only ever read, and dear to make anew for each search."""
    return faiss.SearchParametersIVF(nprobe=nprobe)


def write(index: Any, path: str, binary: bool) -> None:
    (faiss.write_index_binary if binary else faiss.write_index)(index, path)


def read(path: str, binary: bool) -> Any:
    return (faiss.read_index_binary if binary else faiss.read_index)(path)


def _cloned(index: Any) -> Any:
    return faiss.clone_index(index)


def _rotation(dimension: int) -> NDArray[np.float32]:
    """A random rotation: RaBitQ's one bit a component says most where no component is special."""
    gaussian = np.random.default_rng(_ROTATION_SEED).standard_normal((dimension, dimension))
    rotation: NDArray[np.float32] = np.linalg.qr(gaussian)[0].astype(np.float32)
    return rotation
