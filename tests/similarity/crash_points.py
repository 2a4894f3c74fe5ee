"""Every write of an embedded index, told to a test as it happens, and what a crash there leaves of the files.

A process that dies leaves its files as they are: a copy is the crash. A loss of power leaves less: of what was written
since the last flush any part may be missing. `Crashes` keeps both kinds of copies at every point.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.similarity.embedded.high_water import HighWater, Mark
from tests.similarity.embedded_world import copy

Told = Callable[[str], None]


@contextlib.contextmanager
def watched(told: Told) -> Iterator[None]:
    """`told` hears of each step, before and after it: commits, marks, flushes, renames, removals, checkpoints."""
    with pytest.MonkeyPatch.context() as patch:

        def wrap(owner: object, name: str) -> None:
            done = getattr(owner, name)

            def step(*args: Any, **kwargs: Any) -> Any:
                told(f"before {name}")
                result = done(*args, **kwargs)
                told(f"after {name}")
                return result

            patch.setattr(owner, name, step)

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                telling = sql.startswith(("COMMIT", "PRAGMA wal_checkpoint"))
                if telling:
                    told(f"before {sql}")
                cursor = super().execute(sql, parameters)
                if telling:
                    told(f"after {sql}")
                return cursor

        connect = sqlite3.connect
        patch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=Connection))
        wrap(os, "fsync")
        wrap(os, "pwrite")
        wrap(os, "fdatasync")
        wrap(shutil, "rmtree")
        wrap(Path, "rename")
        yield


class Crashes:
    """Copies of `directory` at points chosen by chance, each with what the test says of that moment."""

    def __init__(self, directory: Path, into: Path, share: float, seed: int, now: Callable[[], Any]) -> None:
        self._directory = directory
        self._into = into
        self._share = share
        self._random = random.Random(seed)
        self._now = now
        self._flushed: set[tuple[int, int]] = set()  # (inode, size) of files whose bytes are on the disk
        self._log = b""  # the write-ahead log when it was flushed last
        self._mark = b""
        self._taking = False  # a copy's own writes are no points
        self.points = 0
        self.taken: list[tuple[Path, str, Any]] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            fsync, write = os.fsync, HighWater.write

            def flushed(descriptor: int) -> None:
                fsync(descriptor)
                state = os.fstat(descriptor)
                self._flushed.add((state.st_ino, state.st_size))

            def marked(marks: HighWater, mark: Mark) -> None:
                write(marks, mark)
                self._mark = self._bytes("high-water")

            patch.setattr(os, "fsync", flushed)
            patch.setattr(HighWater, "write", marked)
            with watched(self._told):
                yield

    def _told(self, step: str) -> None:
        if self._taking:
            return
        self._taking = True
        self._point(step)
        self._taking = False

    def _point(self, step: str) -> None:
        self.points += 1
        if self._random.random() < self._share:
            self._take(step, self._killed)
        if self._random.random() < self._share:
            self._take(f"{step}, power lost", self._powerless)
        if step == "after COMMIT":
            self._log = self._bytes("rows.db-wal")

    def _take(self, step: str, kind: Callable[[Path], None]) -> None:
        to = self._into / str(len(self.taken))
        kind(to)
        self.taken.append((to, step, self._now()))

    def _killed(self, to: Path) -> None:
        copy(self._directory, to)

    def _powerless(self, to: Path) -> None:
        copy(self._directory, to)
        self._tear(to / "rows.db-wal", self._log)
        self._tear(to / "high-water", self._mark)
        for path in sorted((self._directory / "segments").rglob("*")):
            state = path.stat()
            if path.is_file() and (state.st_ino, state.st_size) not in self._flushed:
                torn = to / path.relative_to(self._directory)
                torn.write_bytes(torn.read_bytes()[: self._random.randrange(state.st_size + 1)])

    def _tear(self, path: Path, before: bytes) -> None:
        """Of what was written since `before` only the beginning."""
        if path.exists() and (after := path.read_bytes()) != before:
            cut = self._random.randrange(len(after) + 1)
            path.write_bytes(after[:cut] + before[cut:])

    def _bytes(self, name: str) -> bytes:
        path = self._directory / name
        return path.read_bytes() if path.exists() else b""
