"""The embedded index: FAISS segments over durable rows. Search never waits for a write, a write only for the disk.

A write: checked -> committed with others to the store -> appended to the write buffer -> acknowledged. Behind it, the
upkeep (`upkeep.py`) gathers full buffers into an indexed part in memory, writes that to a segment file, trains, merges
and rewrites segments, and swaps each result into the view. A restart opens the segment files and replays the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deployments.similarity.checks import check_id, checked_items, checked_search
from deployments.similarity.content import EncoderId
from deployments.similarity.embedded.codes import Codes
from deployments.similarity.embedded.commits import GroupCommit
from deployments.similarity.embedded.gpu import gpu_of
from deployments.similarity.embedded.ranking import Found
from deployments.similarity.embedded.recovery import recovered
from deployments.similarity.embedded.searcher import Searcher
from deployments.similarity.embedded.segment import SegmentFiles
from deployments.similarity.embedded.store import RowStore, sound_frames
from deployments.similarity.embedded.stored import StoredRow, Written, frames_of, item_of
from deployments.similarity.embedded.table import Codebook, Codebooks
from deployments.similarity.embedded.upkeep import Upkeep
from deployments.similarity.embedded.view import Buffer, View
from deployments.similarity.errors import IndexClosed, IndexDamaged, IndexUnwritable
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import Space, space_of
from deployments.similarity.values import Filter, IndexStats, Item, Neighbours

_Operation = Sequence[Item] | Sequence[str] | Callable[[], object]
"""Items to upsert, ids to delete, or work that must not meet a write."""

MAX_SEALED_BUFFERS = 64
"""So many full buffers wait for the upkeep before writes wait for it, too."""

_RESTLESS_TRIES = 3
_UNSURE = ("SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC", "SQLITE_IOERR_TRUNCATE")


class EmbeddedIndex:
    """VectorIndex over one directory on a local disk. One process owns it: the caller holds the lock."""

    def __init__(
        self,
        directory: Path,
        settings: IndexSettings,
        dimension: int,
        encoder: EncoderId,
        *,
        create: bool = True,
        maintain: bool = True,
    ) -> None:
        """maintain: run the upkeep in background threads; otherwise the caller calls `maintain`.

        Raises:
            IndexDamaged: acknowledged data is missing or damaged beyond repair.
            InvalidInput: the directory holds an index of another metric, dimension or encoder.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.encoder = encoder
        self._settings = settings
        self._space = space_of(settings, dimension)
        self._codes = Codes(self._space, settings)
        self._books = Codebooks(Codebook(), Codebook())
        self._files = SegmentFiles(
            directory / "segments", self._space, self._codes, self._books, gpu_of(settings.device)
        )
        self._searcher = Searcher(self._space, self._codes, settings, self._books)
        self._store = RowStore(directory, _identity(settings, self._space, encoder), create=create)
        self._lock = threading.Lock()  # over the view's swap and the death of rows; searches never take it
        self._failed: BaseException | None = None
        self._closed = False
        self._closing = threading.Lock()
        self._room = threading.Condition()
        self._loading = False
        try:
            recovery = recovered(self._store, self._files, self._space, self._codes, self._books, settings)
        except sqlite3.DatabaseError as error:
            self._store.close()
            raise IndexDamaged(f"rows.db is not readable ({error}); restore the index from a backup") from error
        except BaseException:
            self._store.close()
            raise
        self.repaired = recovery.repaired  # what the start found damaged and put right, in words
        self._view = View(recovery.segments, recovery.gathered, (), self._new_buffer())
        self.upkeep = Upkeep(self, recovery.growing)
        self._commits: GroupCommit[_Operation, Written] = GroupCommit(
            self._commit, lambda operation: 1 if callable(operation) else len(operation), name=f"rows-{directory.name}"
        )
        if maintain:
            self.upkeep.start()

    @classmethod
    def open(
        cls, directory: Path, settings: IndexSettings, dimension: int, encoder: EncoderId, *, create: bool = True
    ) -> EmbeddedIndex:
        return cls(directory, settings, dimension, encoder, create=create)

    @property
    def space(self) -> Space:
        return self._space

    @property
    def settings(self) -> IndexSettings:
        return self._settings

    def upsert(self, items: Sequence[Item]) -> None:
        checked = checked_items(self._space, items)
        if checked:
            self._written(checked)

    def delete(self, ids: Sequence[str]) -> int:
        wanted = list(dict.fromkeys(check_id(id_) for id_ in ids))
        return len(self._written(wanted).deleted_ids) if wanted else 0

    def get(self, ids: Sequence[str]) -> dict[str, Item]:
        with self._open():
            found = self._store.with_frames(list(dict.fromkeys(ids)))
            return {row.id: self._item(row, frames) for row, frames in found}

    def search(
        self,
        queries: NDArray[Any] | Sequence[NDArray[Any]],
        k: int,
        *,
        filter: Filter | None = None,
        threshold: float | None = None,
        exact: bool = False,
        effort: int | None = None,
    ) -> list[Neighbours]:
        """As VectorIndex. effort: nprobe or ef_search for this search alone."""
        checked = checked_search(self._space, queries, k, threshold)
        if filter is not None and filter.empty:
            filter = None
        if self._closed:
            raise IndexClosed
        if not checked:
            return []
        with self._open():
            excluded = self._store.seqs_of(filter.exclude_ids) if filter is not None and filter.exclude_ids else []
            found = self._found(
                lambda view: self._searcher.nearest(
                    view,
                    checked,
                    k,
                    filter=filter,
                    excluded=excluded,
                    threshold=threshold,
                    exact=exact,
                    effort=effort,
                )
            )
        if filter is not None and filter.exclude_ids:  # an excluded item may have been replaced meanwhile
            return [_without(one, filter.exclude_ids) for one in found.neighbours]
        return found.neighbours

    def count(self) -> int:
        return self._store.mark.items

    def scan(self, after: str = "", limit: int = 1000) -> list[str]:
        with self._open():
            return self._store.ids_after(after, limit)

    def stats(self) -> IndexStats:
        view = self._view
        tables = [part.table for part in view.parts()] + [buffer.view()[0] for buffer in view.buffers()]
        newest = [float(living.max()) for table in tables if len(living := table.created_at[table.alive])]
        codes = sum(self._codes.memory_bytes(part.index) + part.table.alive.nbytes for part in view.parts())
        template = max((part.template for part in view.segments if part.template), key=lambda t: t.rows, default=None)
        return IndexStats(
            items=self.count(),
            memory_bytes=codes + sum(buffer.nbytes for buffer in view.buffers()) + self.upkeep.gathered_bytes,
            disk_bytes=_size_bytes(self.directory),
            buffered=sum(len(buffer) - buffer.dead for buffer in view.buffers()),
            deleted=sum(part.dead for part in view.parts()),
            segments=len(view.segments),
            trained_rows=template.rows if template else 0,
            newest_at=max(newest, default=None),
            snapshot_at=self.upkeep.snapshot_at,
            recall_estimate=self.upkeep.recall_estimate,
            details={
                "index_type": self._settings.index_type,
                "effort": template.effort if template else None,
                "nlist": getattr(template.index, "nlist", None) if template else None,
                "merge_seconds": self.upkeep.merge_s,
                "repaired": self.repaired,
                "scrubbed_at": self.upkeep.scrubbed_at,
                "damage": self.upkeep.damaged,
                "errors": self._errors(),
            },
        )

    def load(self, batches: Iterable[Sequence[Item]]) -> int:
        """Bulk load: durable batch by batch, findable at the end, when the whole is trained once. Items loaded.

        What others write meanwhile is as durable, and as late to be found.
        """
        loaded = 0
        with self.upkeep.paused():
            self.between_writes(self._begin_load)
            try:
                self.upkeep.gather()
                self.upkeep.freeze()
                for batch in batches:
                    if self._closed:
                        raise IndexClosed
                    checked = checked_items(self._space, batch)
                    if checked:
                        self._commits.submit(checked).result()
                    loaded += len(checked)
                self.upkeep.index_stored()
            finally:
                self.between_writes(self._end_load)
            self.upkeep.retrain()
        return loaded

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self.upkeep.stop()
        self._commits.close()
        self._store.close()

    # --- for the upkeep ---

    @property
    def view(self) -> View:
        return self._view

    @property
    def store(self) -> RowStore:
        return self._store

    @property
    def files(self) -> SegmentFiles:
        return self._files

    @property
    def codes(self) -> Codes:
        return self._codes

    @property
    def books(self) -> Codebooks:
        return self._books

    def swap(self, change: Callable[[View], View]) -> None:
        """A new view in the old one's place; `change` runs while no row can die, and may carry deaths over."""
        with self._lock:
            self._view = change(self._view)
        with self._room:
            self._room.notify_all()

    def seal(self) -> None:
        """Hand the write buffer to the upkeep, full or not."""
        self.between_writes(lambda: self._seal() if len(self._view.buffer) else None)

    def between_writes(self, work: Callable[[], object]) -> None:
        """Do `work` on the writing thread, after what was submitted before and ahead of what comes."""
        self._commits.submit(work).result()

    # --- for verify ---

    @property
    def loading(self) -> bool:
        """Rows of a bulk load are in the store and not yet to be found."""
        return self._loading

    def discard(self, seqs: Sequence[int]) -> None:
        """Give up rows that are beyond repair."""

        def discard() -> None:
            self._store.discard(seqs)
            self._follow(Written(removed=list(seqs)))

        self.between_writes(discard)

    def rewrite(self, items: Sequence[Item]) -> None:
        """Replace items; vectors are taken as they are, for what was stored before."""
        self._written(items)

    # --- inside ---

    def _found(self, looked: Callable[[View], Found]) -> Found:
        """In a view whose buffer is still the newest: else what was replaced meanwhile may lie in a newer one."""
        for _ in range(_RESTLESS_TRIES):
            view = self._view
            found = looked(view)
            if self._view.buffer is view.buffer and not found.doubled:
                return found
        with self._lock:
            return looked(self._view)

    def _written(self, operation: _Operation) -> Written:
        with self._room:
            while len(self._view.sealed) >= MAX_SEALED_BUFFERS and self.upkeep.running and not self._closed:
                if self.upkeep.stuck is not None:
                    raise IndexUnwritable(
                        "The index cannot make room for writes: its upkeep fails; see its statistics."
                    )
                self._room.wait(1.0)
        return self._commits.submit(operation).result()

    def _commit(self, operations: list[_Operation]) -> list[Written | BaseException]:
        if self._failed is not None:
            raise IndexClosed("A write to the index's disk failed; it must be opened anew.") from self._failed
        if any(callable(operation) for operation in operations):
            return [self._alone(operation) for operation in operations]
        try:
            written = self._store.write(operations)  # type: ignore[arg-type]  # none is callable
        except sqlite3.Error as error:  # disk full, for one: rolled back, nothing changed
            if _unsure(error) or not self._store.in_step():
                self._failed = error
                raise
            if len(operations) > 1:
                return [self._alone(operation) for operation in operations]
            if isinstance(error, sqlite3.OperationalError):
                raise IndexUnwritable from error
            raise self.upkeep.damage("rows.db") from error
        except BaseException as error:
            self._failed = error
            raise
        try:
            for one in written:
                self._follow(one)
        except BaseException as error:  # the store is ahead of the view for good
            self._failed = error
            raise
        return list(written)

    def _alone(self, operation: _Operation) -> Written | BaseException:
        try:
            if not callable(operation):
                return self._commit([operation])[0]
            operation()
        except Exception as error:  # noqa: BLE001  # its own caller hears of it, the others of theirs
            return error
        return Written()

    def _follow(self, written: Written) -> None:
        """The store is ahead: bring the view level. New rows appear before the ones they replace go."""
        if not self._loading:
            self._append(written.added)
        with self._lock:
            for seq in written.removed:
                any(part.kill(seq) for part in self._view.newest_first())

    def _append(self, added: Sequence[StoredRow]) -> None:
        start = 0
        while start < len(added):
            buffer = self._view.buffer
            some = added[start : start + buffer.room]
            buffer.append(some, [self._space.unpack(row.vector) for row in some])
            start += len(some)
            if not buffer.room:
                self._seal()

    def _seal(self) -> None:
        fresh = self._new_buffer()
        self.swap(lambda view: dataclasses.replace(view, sealed=(*view.sealed, view.buffer), buffer=fresh))
        self.upkeep.wake()

    def _begin_load(self) -> None:
        """From here on rows go to the store alone: those before are sealed, and will be in segments."""
        if len(self._view.buffer):
            self._seal()
        self._loading = True

    def _end_load(self) -> None:
        """Rows that came after the last were indexed go to the buffer; rows that died unseen are buried."""
        try:
            for batch in self._store.rows(self.upkeep.last_gathered_seq):
                self._append([row for row in batch if row.sound or self.upkeep.damage(f"row {row.seq}") is None])
            with self._lock:
                for seq in self._store.tombstones():
                    any(part.kill(seq) for part in self._view.newest_first())
        finally:
            self._loading = False

    def _item(self, row: StoredRow, frames: bytes | None) -> Item:
        if not row.sound:
            raise self.upkeep.damage(f"row {row.seq} ({row.id!r})")
        if not sound_frames(row, frames):
            raise self.upkeep.damage(f"the frame vectors of row {row.seq} ({row.id!r})")
        return item_of(row, self._space.unpack(row.vector), frames_of(frames) if frames is not None else None)

    def _errors(self) -> list[str]:
        failed = [f"a write failed: {self._failed}"] if self._failed is not None else []
        return [*failed, *self.upkeep.errors.values()]

    def _new_buffer(self) -> Buffer:
        width = 4 * (self._space.row_width or 256) if not self._space.binary else self._space.code_dimension // 8
        return Buffer(self._space, max(64, min(4096, self._settings.buffer_bytes // width)), self._books)

    @contextmanager
    def _open(self) -> Iterator[None]:
        if self._closed:
            raise IndexClosed
        try:
            yield
        except sqlite3.ProgrammingError as error:  # closed while one read
            raise IndexClosed from error
        except sqlite3.DatabaseError as error:
            raise self.upkeep.damage("rows.db") from error


def _without(neighbours: Neighbours, ids: frozenset[str]) -> Neighbours:
    kept = [position for position, id_ in enumerate(neighbours.ids) if id_ not in ids]
    return Neighbours(tuple(neighbours.ids[position] for position in kept), neighbours.scores[kept])


def _unsure(error: sqlite3.Error) -> bool:
    """Whether the disk may or may not have taken the commit: a flush that failed tells nothing about what is there."""
    return getattr(error, "sqlite_errorname", "") in _UNSURE


def _size_bytes(directory: Path) -> int:
    """Of all files; those that go away meanwhile count nothing."""
    size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(folder, name)).st_size
    return size


def _identity(settings: IndexSettings, space: Space, encoder: EncoderId) -> Mapping[str, str]:
    return {
        "metric": settings.metric,
        "dimension": str(space.dimension),
        "row_dtype": str(space.row_dtype),
        "encoder": str(encoder),
    }
