"""How a metric reads vectors, stores them as rows, and scores them exactly. Pure numpy; FAISS gets `codes_input`.

A space turns what a caller gives into a canonical *row* (what is stored and what scores are computed from), and rows
into what a FAISS index takes. Cosine rows are normalised once, on the way in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from deployments.runtime.errors import InvalidInput
from deployments.similarity.halves import inner_products, nearest, single, squared_distances
from deployments.similarity.rows import Chosen, FixedRows, RaggedRows, Rows, gathered
from deployments.similarity.settings import IndexSettings, Metric

MAX_SET_SIZE = 4096
SIGNATURE_BITS = 1024
_SMALL, _LARGE = 1e-30, 1e30  # squared norms that float32 sums without loss


class Space(ABC):
    """One metric at one dimension and row precision."""

    metric: Metric
    higher_is_better: bool
    binary: bool  # the FAISS index is an IndexBinary over uint8

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    @property
    @abstractmethod
    def row_dtype(self) -> np.dtype[Any]: ...

    @property
    def code_dimension(self) -> int:
        """Dimension of the FAISS index: components, or bits."""
        return self.dimension

    @abstractmethod
    def row(self, vector: NDArray[Any]) -> NDArray[Any]:
        """The canonical row of one vector. Raises InvalidInput."""

    @abstractmethod
    def codes_input(self, rows: Rows) -> NDArray[Any]:
        """(n, d) float32, or (n, bits / 8) uint8: what FAISS takes."""

    @abstractmethod
    def scores(self, query: NDArray[Any], rows: Rows) -> NDArray[np.float32]:
        """(n,) exact scores of `query` (a result of `query`) against rows."""

    def best(
        self, query: NDArray[Any], chosen: Chosen, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.intp] | NDArray[np.int64]]:
        """The best `count` of the chosen rows, best first: exact scores and positions among them."""
        scores = self.scores(query, gathered(chosen))
        order = self.order(scores)[:count]
        return scores[order], order

    def query(self, vector: NDArray[Any]) -> NDArray[Any]:
        """A query at full precision. Raises InvalidInput."""
        return self.row(vector)

    def queries(self, vectors: NDArray[Any] | Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        if isinstance(vectors, np.ndarray) and vectors.ndim != 2:
            raise InvalidInput(f"Queries are a list of vectors, not an array of {vectors.ndim} dimensions.")
        return [self.query(vector) for vector in vectors]

    def stacked(self, queries: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Queries, of which there are some, as FAISS takes them."""
        return self.codes_input(self.pack(queries))

    def pack(self, rows: Sequence[NDArray[Any]]) -> Rows:
        """Rows side by side; an empty sequence gives an empty table."""
        if not rows:
            return FixedRows(np.empty((0, self.row_width or 0), self.row_dtype))
        return FixedRows(np.stack(rows))

    def unpack(self, data: bytes) -> NDArray[Any]:
        """A row from its stored bytes. Raises ValueError where the length cannot be right."""
        row = np.frombuffer(data, self.row_dtype)
        if len(row) != self.row_width:
            raise ValueError(f"a row of {len(data)} bytes does not hold {self.row_width} {self.row_dtype}")
        return row

    def better(self, scores: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
        """Which scores are at least as good as `threshold`."""
        return scores >= threshold if self.higher_is_better else scores <= threshold

    def order(self, scores: NDArray[np.float32]) -> NDArray[np.intp]:
        """Positions from best to worst, earlier first among equals."""
        return np.argsort(-scores if self.higher_is_better else scores, kind="stable")

    @property
    def row_width(self) -> int | None:
        """Entries of a row; None where rows differ."""
        return self.dimension


class _FloatSpace(Space):
    binary = False
    _distances = False  # scores come of squared distances, not of inner products

    def __init__(self, dimension: int, row_dtype: DTypeLike) -> None:
        super().__init__(dimension)
        self._row_dtype = np.dtype(row_dtype)

    @property
    def row_dtype(self) -> np.dtype[Any]:
        return self._row_dtype

    def row(self, vector: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            row = self.query(vector).astype(self._row_dtype)
        if not np.isfinite(row).all():
            raise InvalidInput(f"The vector has a component that {self._row_dtype} rows cannot hold.")
        return row

    def query(self, vector: NDArray[Any]) -> NDArray[Any]:
        array = np.asarray(vector)
        if array.dtype.kind not in "fiu":
            raise InvalidInput(f"A vector is made of numbers, not of {array.dtype}.")
        if array.shape != (self.dimension,):
            raise InvalidInput(f"The vector has shape {_shape(array)}; the index holds {self.dimension} dimensions.")
        with np.errstate(over="ignore"):
            query = array.astype(np.float32)
        if not np.isfinite(query).all():
            raise InvalidInput("The vector holds NaN, infinity or a component beyond float32.")
        return query

    def codes_input(self, rows: Rows) -> NDArray[Any]:
        return single(_matrix(rows))

    def stacked(self, queries: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return queries[0][None] if len(queries) == 1 else np.stack(queries)

    def scores(self, query: NDArray[Any], rows: Rows) -> NDArray[np.float32]:
        sums = squared_distances if self._distances else inner_products
        return self._score(sums(_matrix(rows), query))

    def best(
        self, query: NDArray[Any], chosen: Chosen, count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.intp] | NDArray[np.int64]]:
        halves = [(_matrix(rows), positions) for rows, positions in chosen]
        found = nearest(halves, query, count, distances=self._distances)
        return super().best(query, chosen, count) if found is None else (self._score(found[0]), found[1])

    def _score(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores of inner products, or of squared distances."""
        return sums


class CosineSpace(_FloatSpace):
    metric = "cosine"
    higher_is_better = True

    def queries(self, vectors: NDArray[Any] | Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        if isinstance(vectors, np.ndarray) and vectors.dtype == np.float32 and vectors.shape[1:] == (self.dimension,):
            with np.errstate(over="ignore", invalid="ignore"):
                squares = np.vecdot(vectors, vectors)
            if all(_SMALL < square < _LARGE for square in squares.tolist()):
                return list(vectors / np.sqrt(squares)[:, None])
        return super().queries(vectors)  # which says what is wrong with them

    def query(self, vector: NDArray[Any]) -> NDArray[Any]:
        query = super().query(vector)
        norm = float(np.linalg.norm(query.astype(np.float64)))
        if norm < np.finfo(np.float32).tiny:
            raise InvalidInput("A zero vector has no direction, and so no cosine.")
        normalised: NDArray[np.float32] = (query.astype(np.float64) / norm).astype(np.float32)
        return normalised

    def _score(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.maximum(np.minimum(sums, 1.0), -1.0)  # rounding may leave that range


class InnerProductSpace(_FloatSpace):
    metric = "inner_product"
    higher_is_better = True


class L2Space(_FloatSpace):
    """Euclidean distance, not its square."""

    metric = "l2"
    higher_is_better = False
    _distances = True

    def _score(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.sqrt(sums)


class HammingSpace(Space):
    """Differing bits of two binary signatures; `dimension` in bits."""

    metric = "hamming"
    higher_is_better = False
    binary = True

    def __init__(self, dimension: int) -> None:
        if dimension % 8:
            raise InvalidInput(f"A binary signature has a multiple of 8 bits, not {dimension}.")
        super().__init__(dimension)

    @property
    def row_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def row(self, vector: NDArray[Any]) -> NDArray[Any]:
        array = np.asarray(vector)
        if array.dtype != np.uint8 or array.shape != (self.row_width,):
            raise InvalidInput(
                f"A signature of {self.dimension} bits is {self.row_width} uint8, not {_shape(array)} {array.dtype}."
            )
        return array

    def codes_input(self, rows: Rows) -> NDArray[Any]:
        return np.ascontiguousarray(_matrix(rows))

    def scores(self, query: NDArray[Any], rows: Rows) -> NDArray[np.float32]:
        bits: NDArray[np.float32] = np.bitwise_count(_matrix(rows) ^ query).sum(axis=1).astype(np.float32)
        return bits

    @property
    def row_width(self) -> int:
        return self.dimension // 8


class JaccardSpace(Space):
    """|A and B| / |A or B| of two sets of hashed tokens.

    FAISS has no Jaccard. The index holds 1-bit MinHash signatures (Li and Koenig, "b-Bit Minwise Hashing", WWW 2010),
    whose share of equal bits is (1 + J) / 2 on average; candidates are scored on the sets themselves.
    """

    metric = "jaccard"
    higher_is_better = True
    binary = True

    def __init__(self) -> None:
        super().__init__(SIGNATURE_BITS)
        random = np.random.default_rng(0x7061726B)  # the signatures are stored: these constants never change
        self._multiply = random.integers(0, 2**63, SIGNATURE_BITS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._add = random.integers(0, 2**63, SIGNATURE_BITS, dtype=np.uint64)

    @property
    def row_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint64)

    def row(self, vector: NDArray[Any]) -> NDArray[Any]:
        array = np.asarray(vector)
        if array.dtype != np.uint64 or array.ndim != 1:
            raise InvalidInput(f"A set is a list of uint64 tokens, not {_shape(array)} {array.dtype}.")
        tokens: NDArray[np.uint64] = np.unique(array)
        if not 0 < len(tokens) <= MAX_SET_SIZE:
            raise InvalidInput(f"A set has 1 to {MAX_SET_SIZE} tokens, not {len(tokens)}.")
        return tokens

    @property
    def row_width(self) -> None:
        return None

    def queries(self, vectors: NDArray[Any] | Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return [self.query(vector) for vector in vectors]

    def pack(self, rows: Sequence[NDArray[Any]]) -> Rows:
        return RaggedRows.of(rows, self.row_dtype)

    def unpack(self, data: bytes) -> NDArray[Any]:
        return np.frombuffer(data, self.row_dtype)

    def codes_input(self, rows: Rows) -> NDArray[Any]:
        return np.stack([self._signature(rows[i]) for i in range(len(rows))]) if len(rows) else self._no_signatures()

    def scores(self, query: NDArray[Any], rows: Rows) -> NDArray[np.float32]:
        return np.array([_jaccard(query, rows[i]) for i in range(len(rows))], np.float32)

    def _signature(self, tokens: NDArray[np.uint64]) -> NDArray[np.uint8]:
        smallest = (tokens[:, None] * self._multiply + self._add).min(axis=0)  # multiply-add modulo 2**64
        return np.packbits((smallest >> np.uint64(40)) & np.uint64(1) == 1)

    @staticmethod
    def _no_signatures() -> NDArray[np.uint8]:
        return np.empty((0, SIGNATURE_BITS // 8), np.uint8)


def space_of(settings: IndexSettings, dimension: int) -> Space:
    """`dimension`: components; bits for Hamming; ignored for Jaccard."""
    match settings.metric:
        case "cosine":
            return CosineSpace(dimension, settings.row_dtype)
        case "inner_product":
            return InnerProductSpace(dimension, settings.row_dtype)
        case "l2":
            return L2Space(dimension, settings.row_dtype)
        case "hamming":
            return HammingSpace(dimension)
        case "jaccard":
            return JaccardSpace()


def _matrix(rows: Rows) -> NDArray[Any]:
    assert isinstance(rows, FixedRows)
    return rows.matrix


def _jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _shape(array: NDArray[Any]) -> str:
    return "x".join(map(str, array.shape)) or "scalar"
