"""Every backend that the conformance suite holds to the protocol. A new one is a new entry in BACKENDS."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from deployments.similarity.brute import BruteIndex
from deployments.similarity.content import EncoderId
from deployments.similarity.settings import IndexSettings, IndexType, Metric
from deployments.similarity.vector_index import VectorIndex

ENCODER = EncoderId("test-encoder", "1")
ALL_SETTINGS: list[IndexSettings] = []
for _metric in get_args(Metric):
    for _type in get_args(IndexType):
        try:
            ALL_SETTINGS.append(IndexSettings(metric=_metric, index_type=_type))
        except ValidationError:  # binary metrics have no codes for most types, on any backend
            continue


class IndexBackend(ABC):
    """Opens indexes for the suite, and says what it cannot do: what it says is tested, too."""

    name: str
    durable = True  # a path that is opened again holds what was written
    trains = True  # `built` can bring the index type into effect
    slow = False  # seconds a collection, hundreds of milliseconds a write
    examples = 25  # of random sequences of operations

    @abstractmethod
    def open(self, settings: IndexSettings, dimension: int, path: Path) -> VectorIndex: ...

    def supports(self, settings: IndexSettings) -> bool:
        """Where not, `open` raises InvalidInput."""
        return True

    def built(self, index: VectorIndex) -> str | None:
        """After it the index of what was written is in use. The type that really is; None: that cannot be told."""
        return None

    def remove(self, path: Path) -> None:  # noqa: B027  # most leave nothing outside the path
        """The test is over."""


class Brute(IndexBackend):
    name, durable, trains = "brute", False, False

    def open(self, settings: IndexSettings, dimension: int, path: Path) -> VectorIndex:
        return BruteIndex(settings, dimension)


class Embedded(IndexBackend):
    name = "embedded"

    def open(self, settings: IndexSettings, dimension: int, path: Path) -> VectorIndex:
        from deployments.similarity.embedded.index import EmbeddedIndex

        path.mkdir(parents=True, exist_ok=True)
        small = settings.model_copy(update={"buffer_bytes": 4096, "seal_rows": 64, "train_from": 512})
        return EmbeddedIndex.open(path, small, dimension, ENCODER)


class Milvus(IndexBackend):
    """A server takes 3 s to make a collection: one that a test leaves is emptied for the next of the same kind."""

    def __init__(self, name: str, uri: Callable[[Path], str], *, is_server: bool) -> None:
        """`uri`: of a running server, or a path ending in .db; asked for when the first index is opened."""
        self.name = name
        self._uri = uri
        self._is_server = self.slow = is_server
        self.examples = 10
        self._kinds: dict[Path, tuple[str, IndexSettings, int]] = {}  # path -> index name, and how it was made
        self._left: dict[tuple[IndexSettings, int], list[str]] = {}

    def open(self, settings: IndexSettings, dimension: int, path: Path) -> VectorIndex:
        path.mkdir(parents=True, exist_ok=True)
        if path not in self._kinds:
            left = self._left.get((settings, dimension), [])
            name = left.pop() if left else f"test.{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
            self._kinds[path] = (name, settings, dimension)
        return self._opened(path, self._kinds[path][0], settings, dimension)

    def supports(self, settings: IndexSettings) -> bool:
        if settings.metric in ("hamming", "jaccard"):
            return self._is_server
        return settings.index_type in ("FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW")

    def built(self, index: VectorIndex) -> str | None:
        from deployments.similarity.milvus.index import MilvusIndex

        assert isinstance(index, MilvusIndex)
        index.seal()
        # milvus-lite names the type it was asked for, whether it has it or not
        return str(index.stats().details["index_type"]) if self._is_server else None

    def remove(self, path: Path) -> None:
        if path not in self._kinds or not self._is_server:
            return
        name, settings, dimension = self._kinds.pop(path)
        with closing(self._opened(path, name, settings, dimension)) as index:
            index.delete(index.scan(limit=1_000_000))
            assert index.count() == 0
        self._left.setdefault((settings, dimension), []).append(name)

    def _opened(self, path: Path, name: str, settings: IndexSettings, dimension: int) -> VectorIndex:
        from deployments.similarity.milvus.index import MilvusIndex
        from deployments.similarity.milvus.settings import MilvusSettings

        return MilvusIndex.open(MilvusSettings(uri=self._uri(path)), name, settings, dimension, ENCODER)


def _server_uri(path: Path) -> str:
    from tests.similarity.milvus_server import shared_server

    return shared_server().uri


BACKENDS: tuple[IndexBackend, ...] = (
    Brute(),
    *((Embedded(),) if find_spec("deployments.similarity.embedded.index") else ()),
    Milvus("milvus-lite", lambda path: f"{path}/milvus.db", is_server=False),
    Milvus("milvus-server", _server_uri, is_server=True),
)
