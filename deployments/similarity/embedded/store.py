"""The truth of an embedded index: its rows in SQLite, durable before they are acknowledged, each with a checksum.

WAL with `synchronous=FULL`: a commit survives power loss. FAISS segments are a cache of it, named here in the same
transaction that says which rows they cover. Rows are numbered by `seq`, which is never used twice: replacing an item
gives it a new one. One thread writes; any may read.

A database that does not reach as far as was acknowledged is refused before anything is opened for writing: SQLite
would checkpoint on closing, and with that throw away what is left of a damaged write-ahead log.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deployments.runtime.errors import InvalidInput
from deployments.similarity.embedded.high_water import HighWater, Mark
from deployments.similarity.embedded.stored import (
    SegmentEntry,
    StoredRow,
    Written,
    frames_bytes,
    frames_checksum,
    from_blob,
    row_columns,
    row_of,
    stored_row,
    to_blob,
)
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.values import Item

FORMAT = 1
ROWS = "rows.db"
HIGH_WATER = "high-water"
_MODULO = 1 << 64
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), commits INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    items INTEGER NOT NULL, digest BLOB NOT NULL, covered_seq INTEGER NOT NULL);
CREATE TABLE rows (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created_at REAL NOT NULL, language TEXT NOT NULL,
    content_type TEXT NOT NULL, attributes TEXT NOT NULL, vector BLOB NOT NULL, frames BLOB NOT NULL,
    checksum BLOB NOT NULL);
CREATE TABLE frames (seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE tombstones (seq INTEGER PRIMARY KEY);
CREATE TABLE segments (name TEXT PRIMARY KEY, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    manifest TEXT NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO state VALUES (1, 0, 0, 0, x'0000000000000000', 0);
"""
_COLUMNS = "seq, id, created_at, language, content_type, attributes, vector, frames, checksum"
_QUALIFIED = ", ".join(f"rows.{name}" for name in _COLUMNS.split(", "))
_RESTORE = "restore the index from a backup, or `parakh index verify --accept-loss`"


@dataclass(frozen=True)
class Fault:
    """Why the rows are not what was acknowledged. missing: commits that are lost, so far as can be told."""

    message: str
    missing: int = 0


class RowStore:
    """Raises IndexDamaged from the constructor where acknowledged rows are missing or the database is unreadable."""

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, str] | None,
        *,
        create: bool = True,
        tolerant: bool = False,
    ) -> None:
        """identity: what the index is (metric, dimension, encoder, ...): fixed at creation, held to at each opening.

        tolerant: open in spite of a `fault`, for `verify` to read what is there.
        """
        self._path = directory / ROWS
        self._read_lock = threading.Lock()
        self._write_lock = threading.RLock()  # the writer's thread and the one that names segments
        self._checkpoint_lock = threading.Lock()
        self._open_connections: list[sqlite3.Connection] = []
        self._high_water: HighWater | None = None
        self._reader: sqlite3.Connection
        self._writer: sqlite3.Connection
        self._checkpointer: sqlite3.Connection
        self.mark = Mark(0, 0, 0, 0)
        self.fault: Fault | None = None
        try:
            self._open(directory, identity, create, tolerant)
        except sqlite3.DatabaseError as error:
            self.close()
            raise IndexDamaged(f"{self._path} is not readable ({error}); restore the index from a backup") from error
        except BaseException:
            self.close()
            raise

    # --- writing: one thread ---

    def write(self, operations: Sequence[Sequence[Item] | Sequence[str]]) -> list[Written]:
        """All operations (items to upsert, or ids to delete) in one durable transaction, in order: group commit."""
        with self._write_lock:
            with self._transaction():
                state = _State.of(self.mark)
                results = [self._apply(operation, state) for operation in operations]
                mark = state.mark(self.mark.commit + 1)
                self._save(mark)
            self._acknowledge(mark)
        return results

    def in_step(self) -> bool:
        """Whether a write that failed has left everything as it was."""
        try:
            return not self._writer.in_transaction and self._saved() == self.mark
        except sqlite3.Error:
            return False

    def publish(self, added: Sequence[SegmentEntry], dropped: Sequence[str], gone: Iterable[int], covered: int) -> None:
        """Name segments, forget others, and forget tombstones of rows that no segment holds any more.

        covered: every living row up to this seq is in some segment.
        """
        with self._transaction():
            self._writer.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in dropped])
            self._writer.executemany(
                "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?)", [entry.columns() for entry in added]
            )
            self._writer.executemany("DELETE FROM tombstones WHERE seq = ?", [(seq,) for seq in gone])
            self._writer.execute("UPDATE state SET covered_seq = ?", (covered,))

    def forget_segments(self) -> None:
        """No segment is named any more and no row is covered: all is to be built anew from the rows."""
        with self._transaction():
            self._writer.execute("DELETE FROM segments")
            self._writer.execute("DELETE FROM tombstones")
            self._writer.execute("UPDATE state SET covered_seq = 0")

    def checkpoint(self) -> None:
        """Move the WAL into the database file, so that a commit does not have to. Nobody waits for it."""
        with self._checkpoint_lock:
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    # --- reading: any thread ---

    def segments(self) -> list[SegmentEntry]:
        """Those whose entry is sound, in order; see `unsound_segments`."""
        return [entry for _, entry in self._entries() if entry is not None]

    def unsound_segments(self) -> list[str]:
        """Names (or what is left of them) of entries that are not what was written."""
        return [str(name) for name, entry in self._entries() if entry is None]

    def covered_seq(self) -> int:
        found = self._read("SELECT covered_seq FROM state")
        return int(found[0][0]) if found else 0

    def tombstones(self) -> list[int]:
        return [seq for (seq,) in self._read("SELECT seq FROM tombstones ORDER BY seq")]

    def rows(self, after: int, last: int | None = None, batch: int = 4096) -> Iterator[list[StoredRow]]:
        """Rows with after < seq <= last in order of seq, in batches."""
        last = self.mark.last_seq if last is None else last
        while found := self.some_rows(after, last, batch):
            yield found
            after = found[-1].seq

    def some_rows(self, after: int, last: int, limit: int, look: sqlite3.Connection | None = None) -> list[StoredRow]:
        """The first `limit` rows with after < seq <= last; through `look`, if given."""
        query = f"SELECT {_COLUMNS} FROM rows WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"  # noqa: S608
        parameters = (after, last, limit)
        found = self._read(query, parameters) if look is None else look.execute(query, parameters).fetchall()
        return [stored_row(row) for row in found]

    def some_frames(self, after: int, limit: int, look: sqlite3.Connection) -> list[tuple[StoredRow, bytes | None]]:
        """The first `limit` rows with seq > after that have, or should have, frames; and those."""
        query = (
            f"SELECT {_QUALIFIED}, data FROM rows LEFT JOIN frames USING (seq) "  # noqa: S608
            "WHERE seq > ? AND (length(rows.frames) OR data IS NOT NULL) ORDER BY seq LIMIT ?"
        )
        return [(stored_row(row[:-1]), row[-1]) for row in look.execute(query, (after, limit))]

    def frames_of(self, seq: int) -> bytes | None:
        found = self._read("SELECT data FROM frames WHERE seq = ?", (seq,))
        return found[0][0] if found else None

    def by_seqs(self, seqs: Sequence[int]) -> dict[int, StoredRow]:
        return {row.seq: row for chunk in _chunks(seqs) for row in self._where("seq", chunk)}

    def by_ids(self, ids: Sequence[str]) -> dict[str, StoredRow]:
        return {row.id: row for chunk in _chunks(ids) for row in self._where("id", chunk)}

    def with_frames(self, ids: Sequence[str]) -> list[tuple[StoredRow, bytes | None]]:
        """Rows and their frames' bytes, of one moment."""
        found: list[tuple[StoredRow, bytes | None]] = []
        for chunk in _chunks(ids):
            marks = ",".join("?" * len(chunk))
            query = f"SELECT {_QUALIFIED}, data FROM rows LEFT JOIN frames USING (seq) WHERE id IN ({marks})"  # noqa: S608
            found += [(stored_row(row[:-1]), row[-1]) for row in self._read(query, chunk)]
        return found

    def seqs_of(self, ids: Iterable[str]) -> list[int]:
        found: list[int] = []
        for chunk in _chunks(list(ids)):
            marks = ",".join("?" * len(chunk))
            found += [seq for (seq,) in self._read(f"SELECT seq FROM rows WHERE id IN ({marks})", chunk)]  # noqa: S608
        return found

    def ids_after(self, after: str, limit: int) -> list[str]:
        return [id_ for (id_,) in self._read("SELECT id FROM rows WHERE id > ? ORDER BY id LIMIT ?", (after, limit))]

    def identity(self) -> dict[str, str]:
        """What the index is, as it was fixed at its creation."""
        return {key: value for key, value in self._meta().items() if key not in ("format", "checksum")}

    @property
    def highest_seq(self) -> int:
        return int(self._read("SELECT coalesce(max(seq), 0) FROM rows")[0][0])

    @property
    def identity_sound(self) -> bool:
        stored = self._meta()
        return stored.pop("checksum", None) == _meta_sum(stored)

    def counted(self) -> Mark:
        """The mark that the rows themselves add up to, as they are now."""
        with self._write_lock:
            return self._counted(self.mark.commit)

    def copy_to(self, path: Path) -> None:
        """A consistent copy of the database while it serves: of one moment, whatever is written meanwhile."""
        with contextlib.closing(self.look()) as source, contextlib.closing(sqlite3.connect(path)) as target:
            source.backup(target)

    def look(self) -> sqlite3.Connection:
        """A read-only connection of its own, for what takes long. The caller closes it."""
        return connect_to_read(self._path)

    # --- repair ---

    def restore(self, row: StoredRow, found_at: int | None) -> None:
        """Put a row back as it was written; `found_at`: the seq under which it lies damaged."""
        with self._transaction():
            for seq in {row.seq, found_at} - {None}:
                self._writer.execute("DELETE FROM rows WHERE seq = ?", (seq,))
            self._insert_row(row)

    def reindex(self) -> None:
        """Rebuild SQLite's own index over the ids from the rows."""
        with self._transaction():
            self._writer.execute("REINDEX")

    def discard(self, seqs: Sequence[int]) -> None:
        """Give up rows that are beyond repair, and take what is left as the truth."""
        with self._write_lock:
            with self._transaction():
                for table in ("rows", "frames"):
                    self._writer.executemany(f"DELETE FROM {table} WHERE seq = ?", [(seq,) for seq in seqs])  # noqa: S608
                self._writer.executemany("INSERT OR IGNORE INTO tombstones VALUES (?)", [(seq,) for seq in seqs])
                mark = self._counted(self.mark.commit + 1)
                self._save(mark)
            self._acknowledge(mark)

    def mark_again(self) -> None:
        """Both slots of the mark anew."""
        with self._write_lock:
            self._acknowledge_again(self.mark)
            self._acknowledge_again(self.mark)

    def accept(self) -> None:
        """Take what is there as the truth, whatever was acknowledged. Seqs go on from the higher of the two."""
        acknowledged = self._high_water_file.read() or Mark(0, 0, 0, 0)
        with self._write_lock:
            last_seq = max(acknowledged.last_seq, self.mark.last_seq, self.highest_seq)
            self.mark = Mark(max(acknowledged.commit, self.mark.commit), last_seq, 0, 0)
            with self._transaction():
                self._writer.execute("INSERT OR IGNORE INTO state VALUES (1, 0, 0, 0, x'', 0)")
                mark = self._counted(self.mark.commit + 1)
                self._save(mark)
            self._acknowledge(mark)
            self._acknowledge_again(mark)
            self.fault = None

    def close(self) -> None:
        """Waits for those who read."""
        with self._read_lock, self._write_lock, self._checkpoint_lock:
            for connection in self._open_connections:
                connection.close()
            if self._high_water is not None:
                self._high_water.close()
            self._high_water = None

    # --- inside ---

    def _open(self, directory: Path, identity: Mapping[str, str] | None, create: bool, tolerant: bool) -> None:
        marked = (directory / HIGH_WATER).exists()
        if not self._path.exists() or (self._path.stat().st_size == 0 and not _wal(self._path)):
            if marked or not create or identity is None:
                raise IndexDamaged(f"{self._path} is missing or empty; restore the index from a backup")
            create_database(self._path, identity)
        self._reader = self._kept(connect_to_read(self._path))
        if not self._has_schema():
            if marked or not create or identity is None:
                raise IndexDamaged(f"{self._path} holds no rows; restore the index from a backup")
            create_database(self._path, identity)
        if identity is not None:
            self._check_identity(identity)
        self._high_water = HighWater(directory / HIGH_WATER)
        try:
            self.mark = self._saved()
            self.fault = self._fault()
        except IndexDamaged as error:
            self.fault = Fault(error.message)
        if self.fault is not None and not tolerant:
            raise IndexDamaged(self.fault.message)
        self._writer = self._kept(_connect(self._path))
        self._checkpointer = self._kept(_connect(self._path))
        if (
            self.fault is None and not tolerant and self._high_water.read() != self.mark
        ):  # the crash came between a commit and its mark
            self._high_water.write(self.mark)

    def _kept(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        self._open_connections.append(connection)
        return connection

    def _fault(self) -> Fault | None:
        found, acknowledged = self.mark, self._high_water_file.read()
        if acknowledged is None:
            if found.commit <= 1:  # the crash came before the first mark
                return None
            return Fault(f"the high-water mark is lost: commits may be missing from {ROWS}; {_RESTORE}")
        if found.commit < acknowledged.commit:
            missing = acknowledged.commit - found.commit
            return Fault(
                f"{missing} acknowledged commits are missing from {ROWS} (its write-ahead log is cut or damaged); "
                f"{_RESTORE}",
                missing,
            )
        if found.commit > acknowledged.commit + 1:
            return Fault(f"the high-water mark is older than {ROWS}: they do not belong together; {_RESTORE}")
        if found.commit == acknowledged.commit and found != acknowledged:
            return Fault(f"the state of {ROWS} is not what was acknowledged; {_RESTORE}")
        return None

    @property
    def _high_water_file(self) -> HighWater:
        assert self._high_water is not None
        return self._high_water

    @property
    def torn_marks(self) -> int:
        """See HighWater.torn_slots."""
        return self._high_water_file.torn_slots

    def _acknowledge(self, mark: Mark) -> None:
        self._high_water_file.write(mark)
        self.mark = mark

    def _acknowledge_again(self, mark: Mark) -> None:
        """In both slots: what the other one said is not true any more."""
        again = Mark(mark.commit + 1, mark.last_seq, mark.items, mark.digest)
        with self._transaction():
            self._save(again)
        self._acknowledge(again)

    def _saved(self) -> Mark:
        found = self._read("SELECT commits, last_seq, items, digest FROM state")
        if len(found) == 1:
            commits, last_seq, items, blob = found[0]
            counts = (commits, last_seq, items, from_blob(blob))
            if all(isinstance(value, int) and value >= 0 for value in counts):
                return Mark(*counts)
        raise IndexDamaged(f"the state of {ROWS} is damaged; {_RESTORE}")

    def _entries(self) -> list[tuple[Any, SegmentEntry | None]]:
        rows = self._read("SELECT name, first_seq, last_seq, manifest, checksum FROM segments ORDER BY first_seq")
        return [(row[0], SegmentEntry.of(*row)) for row in rows]

    def _apply(self, operation: Sequence[Item] | Sequence[str], state: _State) -> Written:
        ids = [entry.id if isinstance(entry, Item) else entry for entry in operation]
        removed = self._remove(ids, state)
        added = [self._insert(entry, state) for entry in operation if isinstance(entry, Item)]
        return Written(added, [seq for _, seq in removed], frozenset(id_ for id_, _ in removed))

    def _remove(self, ids: Sequence[str], state: _State) -> list[tuple[str, int]]:
        removed = []
        for id_ in ids:
            found = self._writer.execute("SELECT seq, checksum FROM rows WHERE id = ?", (id_,)).fetchone()
            if found is None:
                continue
            seq, checksum = found
            self._writer.execute("DELETE FROM rows WHERE seq = ?", (seq,))
            self._writer.execute("DELETE FROM frames WHERE seq = ?", (seq,))
            self._writer.execute("INSERT INTO tombstones VALUES (?)", (seq,))
            state.remove(from_blob(checksum))
            removed.append((id_, seq))
        return removed

    def _insert(self, item: Item, state: _State) -> StoredRow:
        frames = None if item.frames is None else frames_bytes(item.frames)
        row = row_of(state.next_seq(), item, frames)
        self._insert_row(row)
        if frames is not None:
            self._writer.execute("INSERT INTO frames VALUES (?, ?)", (row.seq, frames))
        state.add(row.checksum)
        return row

    def _insert_row(self, row: StoredRow) -> None:
        self._writer.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row_columns(row))

    def _save(self, mark: Mark) -> None:
        columns = (mark.commit, mark.last_seq, mark.items, to_blob(mark.digest))
        self._writer.execute("UPDATE state SET commits = ?, last_seq = ?, items = ?, digest = ?", columns)

    def _counted(self, commit: int) -> Mark:
        items, digest = 0, 0
        for (checksum,) in self._writer.execute("SELECT checksum FROM rows NOT INDEXED"):
            items, digest = items + 1, (digest + from_blob(checksum)) % _MODULO
        return Mark(commit, self.mark.last_seq, items, digest)

    def _has_schema(self) -> bool:
        return bool(self._read("SELECT count(*) FROM sqlite_master WHERE name = 'state'")[0][0])

    def _meta(self) -> dict[str, str]:
        return dict(self._read("SELECT key, value FROM meta"))

    def _check_identity(self, identity: Mapping[str, str]) -> None:
        stored = self._meta()
        if not self.identity_sound:
            raise IndexDamaged(f"what {ROWS} says of itself is damaged; restore the index from a backup")
        if stored.get("format") != str(FORMAT):
            raise IndexDamaged(f"{ROWS} has format {stored.get('format')}, and this version reads {FORMAT}")
        for key, value in identity.items():
            if stored.get(key) != value:
                raise InvalidInput(f"The index holds {key} {stored.get(key)!r}; it was opened for {value!r}.")

    def _where(self, column: str, values: Sequence[Any]) -> list[StoredRow]:
        marks = ",".join("?" * len(values))
        query = f"SELECT {_COLUMNS} FROM rows WHERE {column} IN ({marks})"  # noqa: S608
        return [stored_row(row) for row in self._read(query, values)]

    def _read(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._read_lock:
            return self._reader.execute(query, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise


@dataclass
class _State:
    """The mark, while a transaction changes it."""

    last_seq: int
    items: int
    digest: int

    @classmethod
    def of(cls, mark: Mark) -> _State:
        return cls(mark.last_seq, mark.items, mark.digest)

    def next_seq(self) -> int:
        self.last_seq += 1
        return self.last_seq

    def add(self, checksum: int) -> None:
        self.items, self.digest = self.items + 1, (self.digest + checksum) % _MODULO

    def remove(self, checksum: int) -> None:
        self.items, self.digest = self.items - 1, (self.digest - checksum) % _MODULO

    def mark(self, commit: int) -> Mark:
        return Mark(commit, self.last_seq, self.items, self.digest)


def create_database(path: Path, identity: Mapping[str, str]) -> None:
    """Empty rows; on return they are on the disk."""
    meta = {"format": str(FORMAT), **identity}
    with contextlib.closing(_connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", [*meta.items(), ("checksum", _meta_sum(meta))])
        connection.execute("COMMIT")


def sound_frames(row: StoredRow, data: bytes | None) -> bool:
    """Whether `data` are the frames that `row` was written with."""
    return data is None if not row.frames else data is not None and frames_checksum(row.seq, data) == row.frames


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA page_size = 8192")  # two to four rows of 1024 float16 components
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 20000")  # the maintenance thread does it before that
    connection.execute("PRAGMA busy_timeout = 10000")
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Closing it leaves the write-ahead log as it is."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA busy_timeout = 10000")
    return connection


def _wal(path: Path) -> bool:
    """Whether there is a write-ahead log with anything in it."""
    wal = path.with_name(path.name + "-wal")
    return wal.exists() and wal.stat().st_size > 0


def _meta_sum(meta: Mapping[str, str]) -> str:
    return hashlib.blake2b(json.dumps(sorted(meta.items())).encode(), digest_size=8).hexdigest()


def _chunks(values: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
