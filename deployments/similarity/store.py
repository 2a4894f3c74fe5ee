"""The truth of an embedded index: its rows in SQLite, durable before they are acknowledged, each with a checksum.

WAL with `synchronous=FULL`: a commit survives power loss. FAISS segments are a cache of it, named here in the same
transaction that says which rows they cover. Rows are numbered by `seq`, which is never used twice: replacing an item
gives it a new one. One thread writes; any may read.
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deployments.runtime.errors import InvalidInput
from deployments.similarity.checks import attributes_json
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.high_water import HighWater, Mark
from deployments.similarity.values import FrameVectors, Item

FORMAT = 1
_MODULO = 1 << 64
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), commits INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    items INTEGER NOT NULL, digest BLOB NOT NULL, covered_seq INTEGER NOT NULL);
CREATE TABLE rows (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created_at REAL NOT NULL, language TEXT NOT NULL,
    content_type TEXT NOT NULL, attributes TEXT NOT NULL, vector BLOB NOT NULL, checksum BLOB NOT NULL);
CREATE TABLE frames (seq INTEGER PRIMARY KEY, data BLOB NOT NULL, checksum BLOB NOT NULL);
CREATE TABLE tombstones (seq INTEGER PRIMARY KEY);
CREATE TABLE segments (name TEXT PRIMARY KEY, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    manifest TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO state VALUES (1, 0, 0, 0, x'0000000000000000', 0);
"""
_COLUMNS = "seq, id, created_at, language, content_type, attributes, vector, checksum"


@dataclass(frozen=True)
class StoredRow:
    """One row as read; `sound` tells whether its checksum holds."""

    seq: int
    id: str
    created_at: float
    language: str
    content_type: str
    attributes: str  # JSON
    vector: bytes
    checksum: int

    @property
    def sound(self) -> bool:
        return self.checksum == row_checksum(
            self.seq, self.id, self.created_at, self.language, self.content_type, self.attributes, self.vector
        )


@dataclass(frozen=True)
class Written:
    """What one transaction did, in order: what the index in memory has to follow."""

    added: list[StoredRow] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)  # seqs, of deleted and of replaced rows
    deleted_ids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SegmentEntry:
    """A segment's directory, the rows it may hold (first_seq..last_seq), and the SHA-256 of each of its files."""

    name: str
    first_seq: int
    last_seq: int
    manifest: Mapping[str, Any]


class RowStore:
    """Raises IndexDamaged from the constructor where acknowledged rows are missing or the database is unreadable."""

    def __init__(self, directory: Path, identity: Mapping[str, str], *, create: bool = True) -> None:
        """identity: what the index is (metric, dimension, encoder, ...): fixed at creation, held to at each opening."""
        path = directory / "rows.db"
        fresh = not path.exists()
        if fresh and ((directory / "high-water").exists() or not create):
            raise IndexDamaged(f"{path} is missing; restore the index from a backup")
        self._high_water: HighWater | None = None
        self._read_lock = threading.Lock()
        self._write_lock = threading.RLock()  # the writer's thread and the one that names segments
        try:
            self._writer = _connect(path)
            self._reader = _connect(path)
            if not self._has_schema():
                self._create(identity)
            self._check_identity(identity)
            self._high_water = HighWater(directory / "high-water")
            self.mark = self._checked_mark()
        except sqlite3.DatabaseError as error:
            raise IndexDamaged(f"{path} is not readable ({error}); restore the index from a backup") from error

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
                "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?)",
                [(entry.name, entry.first_seq, entry.last_seq, json.dumps(entry.manifest)) for entry in added],
            )
            self._writer.executemany("DELETE FROM tombstones WHERE seq = ?", [(seq,) for seq in gone])
            self._writer.execute("UPDATE state SET covered_seq = ?", (covered,))

    def checkpoint(self) -> None:
        """Move the WAL into the database file, so that a commit does not have to."""
        with self._read_lock:
            self._reader.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    # --- reading: any thread ---

    def segments(self) -> list[SegmentEntry]:
        rows = self._read("SELECT name, first_seq, last_seq, manifest FROM segments ORDER BY first_seq")
        return [SegmentEntry(name, first, last, json.loads(manifest)) for name, first, last, manifest in rows]

    def covered_seq(self) -> int:
        return int(self._read("SELECT covered_seq FROM state")[0][0])

    def tombstones(self) -> list[int]:
        return [seq for (seq,) in self._read("SELECT seq FROM tombstones ORDER BY seq")]

    def rows(self, after: int, last: int | None = None, batch: int = 4096) -> Iterator[list[StoredRow]]:
        """Rows with after < seq <= last in order of seq, in batches."""
        last = self.mark.last_seq if last is None else last
        while True:
            found = self._read(
                f"SELECT {_COLUMNS} FROM rows WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",  # noqa: S608
                (after, last, batch),
            )
            if not found:
                return
            yield [_stored(row) for row in found]
            after = found[-1][0]

    def by_ids(self, ids: Sequence[str]) -> dict[str, StoredRow]:
        return {row.id: row for chunk in _chunks(ids) for row in self._where("id", chunk)}

    def seqs_of(self, ids: Iterable[str]) -> list[int]:
        found: list[int] = []
        for chunk in _chunks(list(ids)):
            marks = ",".join("?" * len(chunk))
            found += [seq for (seq,) in self._read(f"SELECT seq FROM rows WHERE id IN ({marks})", chunk)]  # noqa: S608
        return found

    def frames(self, seqs: Sequence[int]) -> dict[int, FrameVectors]:
        """Raises IndexDamaged where a checksum fails."""
        frames: dict[int, FrameVectors] = {}
        for chunk in _chunks(list(seqs)):
            marks = ",".join("?" * len(chunk))
            query = f"SELECT seq, data, checksum FROM frames WHERE seq IN ({marks})"  # noqa: S608
            for seq, data, checksum in self._read(query, chunk):
                if frames_checksum(seq, data) != checksum:
                    raise IndexDamaged(f"the stored frame vectors of row {seq} are damaged; `parakh index verify`")
                frames[seq] = _frames_of(data)
        return frames

    def ids_after(self, after: str, limit: int) -> list[str]:
        return [id_ for (id_,) in self._read("SELECT id FROM rows WHERE id > ? ORDER BY id LIMIT ?", (after, limit))]

    def integrity(self) -> list[str]:
        """What SQLite itself finds wrong with its pages; empty where nothing."""
        try:
            found = [str(line) for (line,) in self._read("PRAGMA integrity_check(20)")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    def unsound_frames(self) -> list[int]:
        seqs = [seq for (seq,) in self._read("SELECT seq FROM frames")]
        rows = (self._read("SELECT seq, data, checksum FROM frames WHERE seq = ?", (seq,))[0] for seq in seqs)
        return [seq for seq, data, checksum in rows if frames_checksum(seq, data) != checksum]

    # --- repair ---

    def replace_vector(self, seq: int, vector: bytes) -> None:
        with self._transaction():
            self._writer.execute("UPDATE rows SET vector = ? WHERE seq = ?", (vector, seq))

    def discard(self, seqs: Sequence[int], frames: Sequence[int] = ()) -> None:
        """Give up rows (and frames) that are beyond repair, and take what is left as the truth."""
        with self._write_lock:
            self._discard(seqs, frames)

    def _discard(self, seqs: Sequence[int], frames: Sequence[int]) -> None:
        with self._transaction():
            for table, gone in (("rows", seqs), ("frames", [*seqs, *frames])):
                self._writer.executemany(f"DELETE FROM {table} WHERE seq = ?", [(seq,) for seq in gone])  # noqa: S608
            self._writer.executemany("INSERT OR IGNORE INTO tombstones VALUES (?)", [(seq,) for seq in seqs])
            mark = self._counted(self.mark.commit + 1)
            self._save(mark)
        self._acknowledge(mark)

    def counted(self) -> Mark:
        """The mark that the rows themselves add up to, as they are now."""
        return self._counted(self.mark.commit)

    def copy_to(self, path: Path) -> None:
        """A consistent copy of the database while it serves."""
        with sqlite3.connect(path) as target, self._read_lock:
            self._reader.backup(target)
        target.close()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
        if self._high_water is not None:
            self._high_water.close()

    def _acknowledge(self, mark: Mark) -> None:
        assert self._high_water is not None
        self._high_water.write(mark)
        self.mark = mark

    def _saved(self) -> Mark:
        commits, last_seq, items, digest = self._read("SELECT commits, last_seq, items, digest FROM state")[0]
        return Mark(commits, last_seq, items, _from_blob(digest))

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
            state.remove(_from_blob(checksum))
            removed.append((id_, seq))
        return removed

    def _insert(self, item: Item, state: _State) -> StoredRow:
        seq = state.next_seq()
        attributes, vector = attributes_json(item), item.vector.tobytes()
        checksum = row_checksum(seq, item.id, item.created_at, item.language, item.content_type, attributes, vector)
        row = StoredRow(
            seq, item.id, float(item.created_at), item.language, item.content_type, attributes, vector, checksum
        )
        self._writer.execute(
            "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (seq, row.id, row.created_at, row.language, row.content_type, attributes, vector, _to_blob(checksum)),
        )
        if item.frames is not None:
            data = _frames_bytes(item.frames)
            self._writer.execute("INSERT INTO frames VALUES (?, ?, ?)", (seq, data, frames_checksum(seq, data)))
        state.add(checksum)
        return row

    def _save(self, mark: Mark) -> None:
        self._writer.execute(
            "UPDATE state SET commits = ?, last_seq = ?, items = ?, digest = ?",
            (mark.commit, mark.last_seq, mark.items, _to_blob(mark.digest)),
        )

    def _counted(self, commit: int) -> Mark:
        items, digest = 0, 0
        for (checksum,) in self._writer.execute("SELECT checksum FROM rows"):
            items, digest = items + 1, (digest + _from_blob(checksum)) % _MODULO
        return Mark(commit, self.mark.last_seq, items, digest)

    def _checked_mark(self) -> Mark:
        """What the database says, if it reaches as far as what was acknowledged."""
        assert self._high_water is not None
        found = self._saved()
        acknowledged = self._high_water.read() or Mark(0, 0, 0, 0)
        if found.commit < acknowledged.commit:
            raise IndexDamaged(
                f"{acknowledged.commit - found.commit} acknowledged commits are missing from rows.db (its write-ahead "
                "log is cut or damaged); restore the index from a backup, or `parakh index verify --accept-loss`"
            )
        if found.commit == acknowledged.commit and found != acknowledged:
            raise IndexDamaged("the state of rows.db is not what was acknowledged; restore the index from a backup")
        if found != acknowledged:  # the crash came between a commit and its mark: nobody was told
            self._high_water.write(found)
        return found

    def _has_schema(self) -> bool:
        return bool(self._read("SELECT count(*) FROM sqlite_master WHERE name = 'state'")[0][0])

    def _create(self, identity: Mapping[str, str]) -> None:
        with self._transaction():
            for statement in _SCHEMA.split(";\n"):
                self._writer.execute(statement)
            meta = {"format": str(FORMAT), **identity}
            self._writer.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))

    def _check_identity(self, identity: Mapping[str, str]) -> None:
        stored = dict(self._read("SELECT key, value FROM meta"))
        if stored.get("format") != str(FORMAT):
            raise IndexDamaged(f"rows.db has format {stored.get('format')}, and this version reads {FORMAT}")
        for key, value in identity.items():
            if stored.get(key) != value:
                raise InvalidInput(f"The index holds {key} {stored.get(key)!r}; it was opened for {value!r}.")

    def _where(self, column: str, values: Sequence[Any]) -> list[StoredRow]:
        marks = ",".join("?" * len(values))
        query = f"SELECT {_COLUMNS} FROM rows WHERE {column} IN ({marks})"  # noqa: S608
        return [_stored(row) for row in self._read(query, values)]

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


def row_checksum(
    seq: int, id: str, created_at: float, language: str, content_type: str, attributes: str, vector: bytes
) -> int:
    """64 bits over every column; lengths go in, so that no byte can move from one to the next."""
    texts = [text.encode() for text in (id, language, content_type, attributes)]
    digest = hashlib.blake2b(struct.pack("<qd4I", seq, created_at, *map(len, texts)), digest_size=8)
    for text in texts:
        digest.update(text)
    digest.update(vector)
    return int.from_bytes(digest.digest(), "little")


def frames_checksum(seq: int, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8, salt=struct.pack("<q", seq)).digest()


def item_of(row: StoredRow, vector: np.ndarray[Any, Any], frames: FrameVectors | None) -> Item:
    return Item(row.id, vector, row.created_at, row.language, row.content_type, json.loads(row.attributes), frames)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA page_size = 8192")  # two to four rows of 1024 float16 components
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 20000")  # the maintenance thread does it before that
    connection.execute("PRAGMA busy_timeout = 10000")
    return connection


def _stored(row: Sequence[Any]) -> StoredRow:
    seq, id_, created_at, language, content_type, attributes, vector, checksum = row
    return StoredRow(seq, id_, created_at, language, content_type, attributes, vector, _from_blob(checksum))


def _to_blob(value: int) -> bytes:
    return value.to_bytes(8, "little")  # SQLite's own integers are signed


def _from_blob(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _frames_bytes(frames: FrameVectors) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, vectors=frames.vectors, times_s=frames.times_s)
    return buffer.getvalue()


def _frames_of(data: bytes) -> FrameVectors:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return FrameVectors(arrays["vectors"], arrays["times_s"])


def _chunks(values: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
