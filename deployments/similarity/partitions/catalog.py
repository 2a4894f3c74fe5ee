"""Which partitions there are, and which generations of each: one small SQLite file, the truth about all directories.

A partition's *generation* is one index: one encoder, one dimension, one index type. It lives through `building`
(filled beside the live one) -> `active` (searched) -> `previous` (kept for a rollback) -> `retired` (its data is
gone, its row stays and its number is never used again). Every change is one transaction, durable on return; indexes
of the table itself keep a partition from having two of one living state.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deployments.runtime.errors import PartitionConflict
from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.settings import IndexSettings

FORMAT = 1
_SCHEMA = """
CREATE TABLE generations (partition TEXT NOT NULL, number INTEGER NOT NULL, encoder_name TEXT NOT NULL,
    encoder_version TEXT NOT NULL, dimension INTEGER NOT NULL, settings TEXT NOT NULL, state TEXT NOT NULL,
    incomplete INTEGER NOT NULL, created_at REAL NOT NULL, switched_at REAL, checksum TEXT NOT NULL,
    PRIMARY KEY (partition, number)) WITHOUT ROWID;
CREATE UNIQUE INDEX one_building ON generations (partition) WHERE state = 'building';
CREATE UNIQUE INDEX one_active ON generations (partition) WHERE state = 'active';
CREATE UNIQUE INDEX one_previous ON generations (partition) WHERE state = 'previous'
"""
_INSERT = "INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class State(StrEnum):
    BUILDING = "building"
    ACTIVE = "active"
    PREVIOUS = "previous"
    RETIRED = "retired"


@dataclass(frozen=True)
class Generation:
    partition: PartitionKey
    number: int
    encoder: EncoderId
    dimension: int  # bits for Hamming
    settings: IndexSettings
    state: State
    created_at: float  # Unix seconds
    switched_at: float | None = None  # when it became active
    incomplete: bool = False  # it missed writes while it was damaged: it is never made active again

    @property
    def name(self) -> str:
        return f"g{self.number:04d}"

    @property
    def living(self) -> bool:
        return self.state is not State.RETIRED


class Catalog:
    """Every method may be called from any thread.

    Raises IndexDamaged from the constructor where a row is not what was written, or the file is unreadable.
    """

    def __init__(self, path: Path) -> None:
        self.fresh = False  # whether it was made just now
        self._path = path
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode = WAL", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}")
            self._make_tables()
            self.generations()
        except sqlite3.DatabaseError as error:
            raise self._damaged(f"is not readable ({error})") from error

    def generations(self) -> list[Generation]:
        """All of them, retired ones too, by partition and number."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM generations ORDER BY partition, number").fetchall()
        return [self._generation(row) for row in rows]

    def of(self, key: PartitionKey) -> list[Generation]:
        with self._lock:
            return self._of(key)

    def add(self, generation: Generation) -> None:
        """A new partition's first generation (active), or one that is built beside. Raises PartitionConflict."""
        try:
            with self._transaction():
                self._db.execute(_INSERT.replace("OR REPLACE ", ""), _row(generation))
        except sqlite3.IntegrityError:
            raise PartitionConflict(
                f"{generation.partition} has a generation {generation.number}, or one that is {generation.state}."
            ) from None

    def switch(self, key: PartitionKey, at: float) -> None:
        """building -> active -> previous -> retired, in one step. Raises PartitionConflict."""
        with self._transaction():
            living = self._living(key)
            new = self._complete(living, State.BUILDING, key)
            self._set_states(
                (living.get(State.PREVIOUS), State.RETIRED),
                (living.get(State.ACTIVE), State.PREVIOUS),
                (replace(new, switched_at=at), State.ACTIVE),
            )

    def rollback(self, key: PartitionKey, at: float) -> None:
        """previous <-> active: a second rollback undoes the first. Raises PartitionConflict."""
        with self._transaction():
            living = self._living(key)
            old = self._complete(living, State.PREVIOUS, key)
            self._set_states(
                (old, State.RETIRED),  # out of the way: a partition never has two of one living state
                (living.get(State.ACTIVE), State.PREVIOUS),
                (replace(old, switched_at=at), State.ACTIVE),
            )

    def retire(self, key: PartitionKey, number: int) -> None:
        """Give a generation up for good. Raises PartitionConflict for the active one and for one that is not there."""
        with self._transaction():
            found = next((generation for generation in self._of(key) if generation.number == number), None)
            if found is None or found.state is State.ACTIVE:
                raise PartitionConflict(f"{key} has no generation {number} that can be retired.")
            self._set_states((found, State.RETIRED))

    def drop(self, key: PartitionKey) -> None:
        """Give up every generation, the active one too: there is no such partition any more."""
        with self._transaction():
            self._set_states(*((generation, State.RETIRED) for generation in self._of(key) if generation.living))

    def mark_incomplete(self, key: PartitionKey, number: int) -> None:
        with self._transaction():
            for generation in self._of(key):
                if generation.number == number:
                    self._db.execute(_INSERT, _row(replace(generation, incomplete=True)))

    def copy_to(self, path: Path) -> None:
        """A consistent copy while it serves."""
        with self._lock, sqlite3.connect(path) as target:
            self._db.backup(target)
        target.close()

    def close(self) -> None:
        self._db.close()

    def _living(self, key: PartitionKey) -> dict[State, Generation]:
        return {generation.state: generation for generation in self._of(key) if generation.living}

    @staticmethod
    def _complete(living: dict[State, Generation], state: State, key: PartitionKey) -> Generation:
        generation = living.get(state)
        if generation is None:
            raise PartitionConflict(f"{key} has no generation that is {state}.")
        if generation.incomplete:
            raise PartitionConflict(
                f"Generation {generation.number} of {key} missed writes while it was damaged: retire it and begin anew."
            )
        return generation

    def _set_states(self, *changes: tuple[Generation | None, State]) -> None:
        for generation, state in changes:
            if generation is not None:
                self._db.execute(_INSERT, _row(replace(generation, state=state)))

    def _of(self, key: PartitionKey) -> list[Generation]:
        rows = self._db.execute("SELECT * FROM generations WHERE partition = ? ORDER BY number", (str(key),))
        return [self._generation(row) for row in rows]

    def _generation(self, row: Sequence[Any]) -> Generation:
        if row[-1] != _checksum(row[:-1]):
            raise self._damaged(f"holds a damaged row of partition {row[0]}")
        partition, number, name, version, dimension, settings, state, incomplete, created_at, switched_at, _ = row
        try:
            return Generation(
                PartitionKey.parse(partition),
                number,
                EncoderId(name, version),
                dimension,
                IndexSettings.model_validate_json(settings),
                State(state),
                created_at,
                switched_at,
                bool(incomplete),
            )
        except ValidationError as error:
            raise self._damaged(f"holds index settings of another version for {partition}") from error

    def _make_tables(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == FORMAT:
            return
        if version:
            raise self._damaged(f"has format {version}, and this version reads {FORMAT}")
        self.fresh = True
        with self._transaction():
            for statement in _SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")

    def _damaged(self, what: str) -> IndexDamaged:
        return IndexDamaged(f"The catalog {self._path} {what}; restore it from a backup.")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # rare, and a damaged WAL loses commits


def _row(generation: Generation) -> tuple[Any, ...]:
    columns = (
        str(generation.partition),
        generation.number,
        generation.encoder.name,
        generation.encoder.version,
        generation.dimension,
        generation.settings.model_dump_json(),
        generation.state.value,
        int(generation.incomplete),
        float(generation.created_at),
        generation.switched_at,
    )
    return (*columns, _checksum(columns))


def _checksum(columns: Sequence[Any]) -> str:
    return hashlib.blake2b(json.dumps(list(columns)).encode(), digest_size=8).hexdigest()
