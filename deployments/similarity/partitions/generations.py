"""Generations on disk and in the catalog: made, committed, changed, opened, removed, in an order that survives a crash.

A directory is made, with a marker, before its row; the row is one transaction; data is removed only after the row says
`retired`. Whatever a crash leaves between two of these steps, the next start settles.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.partitions.backends import Backend
from deployments.similarity.partitions.catalog import Catalog, Generation, State
from deployments.similarity.partitions.directories import GenerationDirectories
from deployments.similarity.partitions.partition import OpenGeneration, Partition
from deployments.similarity.partitions.root_lock import RootLock
from deployments.similarity.settings import IndexSettings

logger = logging.getLogger(__name__)

_OPENING_THREADS = 8

Fill = Callable[[Path], None]
"""Puts an index's files into an empty directory."""


@dataclass(frozen=True)
class Spec:
    """What a generation is made to be."""

    encoder: EncoderId
    dimension: int
    settings: IndexSettings


class Generations:
    """Owns the root directory until it is closed.

    Args:
        step: told the name of each step of a change as it is done; tests crash there.

    Raises RootLocked or IndexDamaged from the constructor.
    """

    def __init__(self, root: Path, lock_wait_s: float, backend: Backend, step: Callable[[str], None]) -> None:
        self._backend = backend
        self._step = step
        root.mkdir(parents=True, exist_ok=True)
        self._directories = GenerationDirectories(root)
        self._lock = RootLock(root / "lock", lock_wait_s)
        try:
            self.catalog = Catalog(root / "catalog.db")
            if self.catalog.fresh and self._directories.any_data():
                raise IndexDamaged(f"{root} holds partitions and no catalog.db; restore the catalog from a backup.")
            self._directories.sweep(self.catalog.generations())
        except BaseException:
            self._lock.release()
            raise

    def open_all(self) -> dict[PartitionKey, Partition]:
        """Every partition; a generation that does not open says why."""
        rows = self.catalog.generations()
        with ThreadPoolExecutor(_OPENING_THREADS, thread_name_prefix="open") as pool:
            opened = list(pool.map(self.open, [generation for generation in rows if generation.living]))
        partitions: dict[PartitionKey, Partition] = {}
        for one in opened:
            key = one.generation.partition
            partition = partitions.setdefault(key, Partition(key, ()))
            partition.generations = (*partition.generations, one)
        for key in self._directories.unknown(rows):
            partitions.setdefault(key, Partition(key, ()))  # refuses: it must not be made anew beside old data
        return partitions

    def open(self, generation: Generation) -> OpenGeneration:
        """Never raises: what does not open refuses, and the others serve."""
        directory = self._directories.path_of(generation)
        try:
            if not directory.is_dir():
                raise IndexDamaged("its directory is gone; restore it from a backup")
            return OpenGeneration(generation, self._backend.open(generation, directory, create=False))
        except Exception as error:  # one partition's trouble is not the others'
            logger.exception("similarity: generation %d of %s does not open", generation.number, generation.partition)
            reason = str(error) if isinstance(error, IndexDamaged) else type(error).__name__
            return OpenGeneration(generation, None, reason)

    def make(self, key: PartitionKey, spec: Spec, state: State, fill: Fill | None = None) -> OpenGeneration:
        """A directory and an open index, empty or filled, that no row names yet. Raises what `fill` or opening does."""
        used = [generation.number for generation in self.catalog.of(key)] + self._directories.numbers(key)
        now = time.time()
        generation = Generation(
            key,
            max(used, default=0) + 1,
            spec.encoder,
            spec.dimension,
            spec.settings,
            state,
            created_at=now,
            switched_at=now if state is State.ACTIVE else None,
        )
        directory = self._directories.make(generation)
        self._step("directory made")
        try:
            if fill is not None:
                fill(directory)
            opened = OpenGeneration(generation, self._backend.open(generation, directory, create=fill is None))
        except Exception:
            self._directories.remove(generation)
            raise
        self._step("index opened")
        return opened

    def commit(self, opened: OpenGeneration) -> None:
        """From now on it is there. Raises PartitionConflict, and then it is not."""
        try:
            self.catalog.add(opened.generation)
        except Exception:
            self.dispose(opened)
            raise
        self._step("row committed")
        self._directories.finish(opened.generation)

    def change(self, partition: Partition, transaction: Callable[[], None]) -> list[OpenGeneration]:
        """Run a transaction of the catalog and follow it; the generations that are retired by it, still open."""
        transaction()
        self._step("change committed")
        rows = {generation.number: generation for generation in self.catalog.of(partition.key)}
        for opened in partition.generations:
            opened.generation = rows[opened.generation.number]
        retired = [opened for opened in partition.generations if not opened.generation.living]
        partition.generations = tuple(opened for opened in partition.generations if opened.generation.living)
        return retired

    def mark_incomplete(self, opened: OpenGeneration) -> None:
        """It was passed over by a write: remembered, so that it is never made active."""
        if not opened.generation.incomplete:
            self.catalog.mark_incomplete(opened.generation.partition, opened.generation.number)
            opened.generation = replace(opened.generation, incomplete=True)

    def dispose(self, opened: OpenGeneration) -> None:
        """Close it and remove its data."""
        opened.close()
        self._backend.drop(opened.generation)
        self._directories.remove(opened.generation)
        self._step("data removed")

    def close(self) -> None:
        self.catalog.close()
        self._lock.release()
