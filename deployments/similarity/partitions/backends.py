"""What stands behind a generation: opens its index, and drops what lies outside its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from deployments.similarity.brute import BruteIndex
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.catalog import Generation
from deployments.similarity.vector_index import VectorIndex


class Backend(Protocol):
    def open(self, generation: Generation, directory: Path, *, create: bool) -> VectorIndex:
        """create: a new, empty index; else one that must be there.

        Raises IndexDamaged or any other error where the index cannot serve.
        """
        ...

    def drop(self, generation: Generation) -> None:
        """The generation is retired and its index closed: remove what of it lies elsewhere than in the directory."""
        ...


def backend_of(settings: SimilaritySettings) -> Backend:
    """The libraries of a backend are imported only where it is used."""
    if settings.backend == "milvus":
        from deployments.similarity.milvus.index import MilvusBackend

        assert settings.milvus is not None
        return MilvusBackend(settings.milvus)
    return EmbeddedBackend()


class EmbeddedBackend:
    """FAISS over a row store; everything lies in the generation's directory."""

    def open(self, generation: Generation, directory: Path, *, create: bool) -> VectorIndex:
        from deployments.similarity.embedded.index import EmbeddedIndex

        return EmbeddedIndex.open(
            directory, generation.settings, generation.dimension, generation.encoder, create=create
        )

    def drop(self, generation: Generation) -> None:
        pass


class MemoryBackend:
    """Exact indexes in memory, for tests: they outlive being closed, as files would, but not their backend."""

    def __init__(self) -> None:
        self.indexes: dict[str, BruteIndex] = {}

    def open(self, generation: Generation, directory: Path, *, create: bool) -> VectorIndex:
        name = f"{generation.partition}/{generation.name}"
        if not create and name not in self.indexes:
            raise IndexDamaged("its rows are gone")
        if create:
            self.indexes[name] = _Kept(generation.settings, generation.dimension)
        return self.indexes[name]

    def drop(self, generation: Generation) -> None:
        self.indexes.pop(f"{generation.partition}/{generation.name}", None)


class _Kept(BruteIndex):
    def close(self) -> None:
        pass
