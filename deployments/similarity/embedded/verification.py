"""One pass over an index that holds every row, frame, page, file and count against the others, in small steps.

A row's checksum says whether the copy in a segment is the true one; a segment is built anew from its rows. What only
seems wrong because it was written meanwhile is looked at again while nothing is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.embedded.segment import check_file
from deployments.similarity.embedded.store import RowStore, sound_frames
from deployments.similarity.embedded.stored import StoredRow, frames_checksum
from deployments.similarity.embedded.table import Table
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.values import Item

if TYPE_CHECKING:
    from deployments.similarity.embedded.index import EmbeddedIndex

Kind = Literal["mark", "state", "pages", "row", "frames", "segment", "orphan"]
Outcome = Literal["found", "repaired", "lost"]
BATCH = 512
SEGMENTS = "segments"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was written. lost: given up; `id` is to be indexed again."""

    kind: Kind
    what: str
    outcome: Outcome = "found"
    seq: int | None = None
    id: str | None = None


@dataclass(frozen=True)
class VerifyReport:
    """An index is `ok` where nothing is left that is damaged: all was sound, or is again."""

    rows: int
    segments: int
    findings: tuple[Finding, ...]
    lost_commits: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not any(finding.outcome == "found" and finding.kind != "orphan" for finding in self.findings)

    @property
    def sound(self) -> bool:
        """Nothing was found at all."""
        return all(finding.kind == "orphan" for finding in self.findings)

    @property
    def lost_ids(self) -> tuple[str, ...]:
        """Items that are gone, or lack their frame vectors: to be indexed again."""
        return tuple(finding.id for finding in self.findings if finding.outcome == "lost" and finding.id is not None)

    def of(self, kind: Kind) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.kind == kind)


class Subject(Protocol):
    """What is verified."""

    store: RowStore
    directory: Path
    lost_commits: int
    findings: list[Finding]  # made before the verification began

    def tables(self) -> list[Table]:
        """Every row that is searched, in tables of disjoint ranges of seq."""
        ...

    def names(self, table: Table) -> tuple[list[str], list[str]]:
        """(languages, content types) that its codes stand for."""
        ...

    def uncovered(self, seq: int) -> bool:
        """Whether the row need not be in a table yet."""
        ...

    def still(self, work: Callable[[], None]) -> None:
        """Do `work` while nothing is written."""
        ...

    def rebuild(self, name: str) -> str:
        """A damaged segment anew from its rows; what was done, in words. Raises IndexDamaged."""
        ...

    def discard(self, seqs: Sequence[int]) -> None: ...

    def rewrite(self, item: Item) -> None: ...

    def accept(self) -> None: ...


@dataclass
class Verification:
    """One pass. `steps` yields the share that is done, after each piece of work of at most some ten milliseconds."""

    subject: Subject
    repair: bool = False
    accept_loss: bool = False
    findings: list[Finding] = field(default_factory=list)
    rows: int = 0
    segments: int = 0
    _given_up: dict[int, str | None] = field(default_factory=dict)
    _bad_ranges: list[tuple[int, int]] = field(default_factory=list)
    _bare: list[tuple[int, StoredRow]] = field(default_factory=list)  # (finding, row) whose frames are damaged

    def steps(self) -> Generator[float]:
        self._look = self.subject.store.look()
        try:
            self.findings += self.subject.findings
            self._mark()
            yield 0.0
            self._pages()
            yield 0.05
            damaged: list[str] = []
            for name in self._files(damaged):
                yield 0.05 if name else 0.1
            try:
                for done in self._all_rows():
                    yield 0.1 + 0.7 * done
                for done in self._all_frames():
                    yield 0.8 + 0.15 * done
            except sqlite3.DatabaseError as error:
                self._found("pages", f"rows cannot be read: {error}")
            self._give_up()
            self._segments_anew(damaged)
            self._totals()
            yield 1.0
        finally:
            self._look.close()

    def report(self) -> VerifyReport:
        return VerifyReport(self.rows, self.segments, tuple(self.findings), self.subject.lost_commits)

    # --- what surrounds the rows ---

    def _mark(self) -> None:
        store = self.subject.store
        if store.fault is not None:
            if self.accept_loss:
                self.subject.accept()
                self._found("mark", "what is there was taken as the truth", "lost")
            else:
                self._found("mark", store.fault.message)
        if store.torn_marks:
            self._found("mark", "a slot of the high-water mark is damaged; the next write replaces it")
            if self.repair and store.fault is None:
                self.subject.still(store.mark_again)
                self._settled("repaired")
        if not store.identity_sound:
            self._found("state", "what the index says of itself is damaged")

    def _pages(self) -> None:
        found = self._integrity()
        if found and self.repair:
            with contextlib.suppress(sqlite3.DatabaseError):
                self.subject.store.reindex()
            left = self._integrity()
            for line in found:
                self._found("pages", line, "found" if left else "repaired")
        else:
            for line in found:
                self._found("pages", line)

    def _integrity(self) -> list[str]:
        try:
            found = [str(line) for (line,) in self._look.execute("PRAGMA integrity_check(20)")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    def _files(self, damaged: list[str]) -> Iterator[str]:
        store, directory = self.subject.store, self.subject.directory / SEGMENTS
        for name in store.unsound_segments():
            self._found("segment", f"the entry of segment {name} is damaged")
            damaged.append(name)
        for entry in store.segments():
            self.segments += 1
            for file in entry.manifest["files"]:
                try:
                    check_file(directory / entry.name, entry, file)
                except (IndexDamaged, OSError) as error:
                    if entry.name not in {named.name for named in store.segments()}:
                        break  # merged away meanwhile
                    self._found("segment", str(error))
                    damaged.append(entry.name)
                    self._bad_ranges.append((entry.first_seq, entry.last_seq))
                    break
                yield file
        reach = max((entry.last_seq for entry in store.segments()), default=0)
        if reach > store.covered_seq():
            self._found("segment", f"segments reach to row {reach}, and are noted to end before", seq=reach)
        named = {entry.name for entry in store.segments()} | set(damaged)
        for path in sorted(directory.iterdir()) if directory.exists() else []:
            if path.name not in named and not path.name.startswith("."):
                self._orphan(path)

    def _orphan(self, path: Path) -> None:
        if path.name not in {entry.name for entry in self.subject.store.segments()} and path.exists():
            self._found("orphan", f"{path.name} is in no entry; the next opening removes it")

    # --- rows ---

    def _all_rows(self) -> Iterator[float]:
        store, after = self.subject.store, 0
        last = max(store.mark.last_seq, store.highest_seq, 1)
        while after < last:
            stored = self._stored(after, last)
            until = stored[-1].seq if len(stored) == BATCH else last
            self._compare(stored, after, until)
            self.rows += len(stored)
            after = until
            yield after / last

    def _stored(self, after: int, last: int) -> list[StoredRow]:
        return self.subject.store.some_rows(after, last, BATCH, self._look)

    def _compare(self, stored: Sequence[StoredRow], after: int, until: int) -> None:
        """Rows of the store with after < seq <= until, and the living ones of the tables there."""
        tables = self.subject.tables()
        seen = {seq: (table, position) for table in tables for seq, position in _living(table, after, until)}
        suspects = []
        for row in stored:
            place = seen.pop(row.seq, None)
            if place is None or not row.sound or not self._same(row, *place):
                suspects.append(row.seq)
        suspects += list(seen)
        if suspects:
            self.subject.still(lambda: self._look_again(suspects))

    def _look_again(self, seqs: Sequence[int]) -> None:
        """Nothing is written now: what does not agree is damaged."""
        store, tables = self.subject.store, self.subject.tables()
        for seq in sorted(seqs):
            row, place = store.by_seqs([seq]).get(seq), _place(tables, seq)  # one at a time: repairs move rows
            if row is None and place is not None:
                self._missing(seq, *place)
            elif row is not None and not row.sound:
                self._unsound(row)
            elif row is not None and not self._excused(seq) and (place is None or not self._same(row, *place)):
                self._found("segment", f"row {seq} is in the store, and in no segment as it is there", seq=seq)
                self._bad_ranges.append((seq, seq))

    def _same(self, row: StoredRow, table: Table, position: int) -> bool:
        languages, content_types = self.subject.names(table)
        return (
            row.checksum == int(table.checksums[position])
            and row.vector == table.rows[position].tobytes()
            and row.id == table.ids[position]
            and row.created_at == float(table.created_at[position])
            and row.language == languages[int(table.languages[position])]
            and row.content_type == content_types[int(table.content_types[position])]
        )

    def _excused(self, seq: int) -> bool:
        """The row is not covered by a segment yet (at rest), or its segment is known to be damaged."""
        return any(first <= seq <= last for first, last in self._bad_ranges) or self.subject.uncovered(seq)

    def _missing(self, seq: int, table: Table, position: int) -> None:
        row = self._restored(None, seq, table, position)
        id_ = _text(table.ids, position)
        self._found("row", f"row {seq} ({id_!r}) is missing", "repaired" if row else "found", seq, id_)
        if row is None:
            self._given_up[seq] = id_

    def _unsound(self, row: StoredRow) -> None:
        tables = self.subject.tables()
        place = _place(tables, row.seq) or _place_of_id(tables, row.id)
        restored = None
        if place is not None:
            table, position = place
            restored = self._restored(row, int(table.seqs[position]), table, position)
        id_ = restored.id if restored else (_text(place[0].ids, place[1]) if place else str(row.id))
        self._found("row", f"row {row.seq} ({id_!r}) is damaged", "repaired" if restored else "found", row.seq, id_)
        if restored is None:
            self._given_up[row.seq] = id_
        elif restored.seq in self._given_up:  # it was missed where it belongs
            del self._given_up[restored.seq]
            self.findings = [
                dataclasses.replace(one, outcome="repaired") if one.seq == restored.seq else one
                for one in self.findings
            ]

    def _restored(self, row: StoredRow | None, seq: int, table: Table, position: int) -> StoredRow | None:
        """The row as its segment and its checksum prove it was, put back; None where they do not."""
        if not self.repair:
            return None
        languages, content_types = self.subject.names(table)
        data = self.subject.store.frames_of(seq)
        frames = {b"", *([row.frames] if row else []), *([frames_checksum(seq, data)] if data is not None else [])}
        for attributes, checksum in itertools.product({"{}", *([row.attributes] if row else [])}, frames):
            try:
                candidate = StoredRow(
                    seq,
                    table.ids[position],
                    float(table.created_at[position]),
                    languages[int(table.languages[position])],
                    content_types[int(table.content_types[position])],
                    attributes,
                    table.rows[position].tobytes(),
                    checksum,
                    int(table.checksums[position]),
                )
            except (IndexError, UnicodeDecodeError):
                return None
            if candidate.sound:
                self.subject.store.restore(candidate, row.seq if row else None)
                return candidate
        return None

    # --- frames ---

    def _all_frames(self) -> Iterator[float]:
        store, after = self.subject.store, 0
        last = max(store.mark.last_seq, 1)
        while batch := store.some_frames(after, BATCH // 8, self._look):
            after = batch[-1][0].seq
            for row, data in batch:
                if row.sound and not sound_frames(row, data):
                    self.subject.still(lambda seq=row.seq: self._frames_again(seq))  # type: ignore[misc]
            yield min(1.0, after / last)

    def _frames_again(self, seq: int) -> None:
        row = self.subject.store.by_seqs([seq]).get(seq)
        if row is None or not row.sound or sound_frames(row, self.subject.store.frames_of(seq)):
            return
        self._found("frames", f"the frame vectors of row {seq} ({row.id!r}) are damaged", seq=seq, id=row.id)
        self._bare.append((len(self.findings) - 1, row))

    # --- what is done about it ---

    def _give_up(self) -> None:
        """Rows and frames beyond repair."""
        if not self.accept_loss:
            return
        if self._given_up:
            self.subject.discard(list(self._given_up))
        for position, finding in enumerate(self.findings):
            if finding.kind == "row" and finding.outcome == "found":
                self.findings[position] = dataclasses.replace(finding, outcome="lost")
        for position, row in self._bare:
            self.subject.rewrite(_without_frames(row))
            self.findings[position] = dataclasses.replace(self.findings[position], outcome="lost")

    def _segments_anew(self, damaged: Sequence[str]) -> None:
        rows_left = any(finding.kind == "row" and finding.outcome == "found" for finding in self.findings)
        if not self.repair or rows_left:
            return
        stray = any(finding.kind == "segment" and finding.seq is not None for finding in self.findings)
        for name in [*dict.fromkeys(damaged), *([""] if stray else [])]:
            try:
                done = self.subject.rebuild(name)
            except (IndexDamaged, sqlite3.Error, OSError) as error:
                self._found("segment", f"segment {name} cannot be rebuilt: {error}")
                return
            for position, finding in enumerate(self.findings):
                if finding.kind == "segment" and (name in finding.what if name else finding.seq is not None):
                    what = f"{finding.what}; {done}"
                    self.findings[position] = dataclasses.replace(finding, outcome="repaired", what=what)

    def _totals(self) -> None:
        """Do the rows add up to what was acknowledged?"""
        store = self.subject.store
        if store.fault is not None:
            return

        def count() -> None:
            adds_up = store.counted() == store.mark
            explained = any(finding.kind == "row" and finding.outcome == "found" for finding in self.findings)
            if not adds_up and self.accept_loss:
                self.subject.discard([])
            if not adds_up and not explained:
                outcome: Outcome = "lost" if self.accept_loss else "found"
                self._found("state", "the rows do not add up to what was acknowledged", outcome)

        try:
            self.subject.still(count)
        except sqlite3.DatabaseError as error:
            self._found("pages", f"rows cannot be counted: {error}")

    def _found(
        self, kind: Kind, what: str, outcome: Outcome = "found", seq: int | None = None, id: str | None = None
    ) -> None:
        finding = Finding(kind, what, outcome, seq, id)
        if finding not in self.findings:
            self.findings.append(finding)

    def _settled(self, outcome: Outcome) -> None:
        self.findings[-1] = dataclasses.replace(self.findings[-1], outcome=outcome)


class Serving:
    """An index that is open."""

    lost_commits = 0

    def __init__(self, index: EmbeddedIndex) -> None:
        self._index = index
        self.store = index.store
        self.directory = index.directory
        self.findings: list[Finding] = []

    def tables(self) -> list[Table]:
        view = self._index.view
        return [part.table for part in view.parts()] + [buffer.view()[0] for buffer in view.buffers()]

    def names(self, table: Table) -> tuple[list[str], list[str]]:
        return self._index.books.languages.texts(), self._index.books.content_types.texts()

    def uncovered(self, seq: int) -> bool:
        return self._index.loading

    def still(self, work: Callable[[], None]) -> None:
        self._index.between_writes(work)

    def rebuild(self, name: str) -> str:
        for part in self._index.view.segments:
            if part.entry is not None and part.entry.name == name:
                self._index.upkeep.rebuild(part)
                return "rebuilt from its rows"
        return "the next opening rebuilds it"

    def discard(self, seqs: Sequence[int]) -> None:
        self._index.discard(seqs)

    def rewrite(self, item: Item) -> None:
        self._index.rewrite([item])

    def accept(self) -> None:
        raise IndexDamaged("an index that serves has no fault to accept")


def _living(table: Table, after: int, until: int) -> Iterable[tuple[int, int]]:
    start, end = np.searchsorted(table.seqs, [after, until], side="right")
    positions: NDArray[Any] = np.flatnonzero(table.alive[start:end]) + start
    return zip(table.seqs[positions].tolist(), positions.tolist(), strict=True)


def _place(tables: Sequence[Table], seq: int) -> tuple[Table, int] | None:
    for table in tables:
        position = table.position(seq)
        if position is not None and table.alive[position]:
            return table, position
    return None


def _place_of_id(tables: Sequence[Table], id_: Any) -> tuple[Table, int] | None:
    """Where the living row of an item is, for one whose number is damaged."""
    for table in reversed(tables):
        for position in np.flatnonzero(table.alive).tolist():
            if _text(table.ids, position) == id_:
                return table, position
    return None


def _text(ids: Any, position: int) -> str:
    try:
        return str(ids[position])
    except UnicodeDecodeError:
        return "?"


def _without_frames(row: StoredRow) -> Item:
    vector = np.frombuffer(row.vector, np.uint8)  # its bytes are what is stored again
    return Item(row.id, vector, row.created_at, row.language, row.content_type, json.loads(row.attributes))
