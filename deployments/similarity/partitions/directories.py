"""The directories of generations: `root/<partition>/g0001`, made before the catalog knows them, removed after.

A directory that is being made holds a marker until its row is committed. So at a start, whatever a crash left is told
apart: with the marker and without a row it never took a write and is swept; without either it is nobody's to remove.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from deployments.runtime.errors import InvalidInput
from deployments.similarity.content import PartitionKey
from deployments.similarity.partitions.catalog import Generation

logger = logging.getLogger(__name__)

MARKER = "unfinished"
_GENERATION = re.compile(r"^g(\d{4,})$")


class GenerationDirectories:
    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, generation: Generation) -> Path:
        return self.root / str(generation.partition) / generation.name

    def make(self, generation: Generation) -> Path:
        """An empty directory with its marker, durable on return."""
        path = self.path_of(generation)
        path.mkdir(parents=True)
        (path / MARKER).touch()
        for directory in (path, path.parent, self.root):
            _flush(directory)
        return path

    def finish(self, generation: Generation) -> None:
        """The row is committed: the directory is no longer anybody's to sweep."""
        (self.path_of(generation) / MARKER).unlink(missing_ok=True)

    def remove(self, generation: Generation) -> None:
        _remove(self.path_of(generation))

    def numbers(self, key: PartitionKey) -> list[int]:
        """Numbers of generations that have a directory, whatever the catalog says."""
        return [number for found, number, _ in self._found() if found == key]

    def any_data(self) -> bool:
        """Whether there is a directory that may hold acknowledged writes."""
        return any(not _marked(path) for _, _, path in self._found())

    def sweep(self, generations: Iterable[Generation]) -> None:
        """Settle what a crash left, from the catalog's rows."""
        rows = {(generation.partition, generation.number): generation for generation in generations}
        for key, number, path in list(self._found()):
            generation = rows.get((key, number))
            if generation is not None and generation.living:
                self.finish(generation)
            elif generation is not None or _marked(path):
                logger.info("similarity: removing %s, which no living generation owns", path)
                _remove(path)
            else:
                logger.warning("similarity: %s is in no catalog row; it is left alone and never searched", path)

    def unknown(self, generations: Iterable[Generation]) -> set[PartitionKey]:
        """Partitions with data that no row names: the catalog lost it, or is older than they are."""
        rows = {(generation.partition, generation.number) for generation in generations}
        return {key for key, number, path in self._found() if (key, number) not in rows and not _marked(path)}

    def _found(self) -> Iterator[tuple[PartitionKey, int, Path]]:
        for path in sorted(self.root.glob("*/*")):
            match = _GENERATION.match(path.name)
            if match and path.is_dir():
                try:
                    yield PartitionKey.parse(path.parent.name), int(match[1]), path
                except InvalidInput:
                    continue


def _remove(path: Path) -> None:
    """The marker goes last: a removal that a crash cuts short is taken up at the next start."""
    if not path.exists():
        return
    (path / MARKER).touch()
    for inner in path.iterdir():
        if inner.is_dir():
            shutil.rmtree(inner)
        elif inner.name != MARKER:
            inner.unlink()
    shutil.rmtree(path)


def _marked(path: Path) -> bool:
    return (path / MARKER).exists()


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
