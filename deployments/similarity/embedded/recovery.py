"""From files to a searchable index: open the segments, bury the dead, replay what no segment holds, and count.

Segments are a cache: one that is damaged, or of another index type than is configured, is rebuilt from its rows. In
the end the living rows must add up to what was acknowledged; if not, the store's notes of segments, of the dead and of
how far segments reach are forgotten and everything is rebuilt from the rows alone. If that does not add up either, the
index refuses.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from deployments.similarity.embedded.codes import Codes, Template
from deployments.similarity.embedded.gathered import Gathered, capacity
from deployments.similarity.embedded.segment import Part, SegmentFiles, Source
from deployments.similarity.embedded.store import RowStore
from deployments.similarity.embedded.stored import SegmentEntry, StoredRow
from deployments.similarity.embedded.table import Codebooks, GrowingTable
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import Space

logger = logging.getLogger(__name__)

_MODULO = 1 << 64


@dataclass
class Recovery:
    segments: tuple[Part, ...]
    growing: Gathered
    gathered: Part | None
    repaired: list[str] = field(default_factory=list)  # in words


def recovered(
    store: RowStore, files: SegmentFiles, space: Space, codes: Codes, books: Codebooks, settings: IndexSettings
) -> Recovery:
    """Raises IndexDamaged where rows are damaged or do not add up."""
    start = _Start(store, files, space, codes, books, settings)
    noted = store.unsound_segments()
    repaired = [f"the entry of segment {name} was damaged" for name in noted]
    if not noted:
        entries = store.segments()
        files.sweep({entry.name for entry in entries})
        recovery = start.from_segments(entries)
        if start.adds_up(recovery):
            return recovery
        repaired = recovery.repaired
    logger.error("%s: segments do not add up to the rows; rebuilding them", files.path(""))
    rebuilt = start.from_rows()
    rebuilt.repaired = [*repaired, "segments did not add up to the rows and were rebuilt"]
    if not start.adds_up(rebuilt):
        raise IndexDamaged(
            "the stored rows do not add up to what was acknowledged; restore the index from a backup, or "
            "`parakh index verify --accept-loss`"
        )
    return rebuilt


def segment_name(last_seq: int) -> str:
    return f"{last_seq:012d}-{uuid.uuid4().hex[:8]}"


@dataclass
class _Start:
    store: RowStore
    files: SegmentFiles
    space: Space
    codes: Codes
    books: Codebooks
    settings: IndexSettings

    def from_segments(self, entries: Sequence[SegmentEntry]) -> Recovery:
        repaired: list[str] = []
        parts: list[Part] = []
        lost: list[SegmentEntry] = []
        templates: dict[str, Template] = {}
        for entry in entries:
            part = self._opened(entry, templates, repaired)
            if part is None:
                lost.append(entry)
                continue
            if part.template is not None:
                templates[part.template.name] = part.template
            parts.append(part)
        for seq in self.store.tombstones():
            any(part.kill(seq) for part in parts)
        template = max(templates.values(), key=lambda template: template.rows, default=None)
        parts += [part for entry in lost if (part := self._rebuilt(entry, template)) is not None]
        parts.sort(key=lambda part: part.first_seq)
        growing = self._replayed(template)
        return Recovery(tuple(parts), growing, growing.part(None), repaired)

    def from_rows(self) -> Recovery:
        """Untrained segments of all rows: the upkeep trains them."""
        self.store.forget_segments()
        self.files.sweep(set())
        parts = []
        for batch in self.store.rows(0, batch=capacity(self.space, self.settings)):
            part = built([batch], len(batch), self.files, self.space, self.books, self.settings, None)
            if part is not None:
                self.store.publish([_entry(part)], (), (), part.last_seq)
                parts.append(part)
        growing = self._replayed(None)
        return Recovery(tuple(parts), growing, growing.part(None))

    def adds_up(self, recovery: Recovery) -> bool:
        counts = [part.table.digest() for part in recovery.segments]
        if recovery.gathered is not None:
            counts.append(recovery.gathered.table.digest())
        items, digest = sum(count for count, _ in counts), sum(digest for _, digest in counts) % _MODULO
        return (items, digest) == (self.store.mark.items, self.store.mark.digest)

    def _opened(self, entry: SegmentEntry, templates: dict[str, Template], repaired: list[str]) -> Part | None:
        if entry.manifest["index_type"] != self.settings.index_type:
            return None
        try:
            return self.files.open(entry, templates)
        except (IndexDamaged, OSError, ValueError, KeyError, RuntimeError) as error:  # FAISS raises RuntimeError
            logger.error("%s; rebuilding it from its rows", error)
            repaired.append(f"segment {entry.name} was damaged and rebuilt from its rows")
            return None

    def _rebuilt(self, entry: SegmentEntry, template: Template | None) -> Part | None:
        """The segment anew from the store, under a new name."""
        part = rebuilt(self.store, self.files, self.space, self.books, self.settings, entry, template)
        added = [_entry(part)] if part is not None else []
        self.store.publish(added, [entry.name], (), self.store.covered_seq())
        self.files.remove(entry.name)
        return part

    def _replayed(self, template: Template | None) -> Gathered:
        """What came after the last segment."""
        covered = self.store.covered_seq()
        rows = [row for batch in self.store.rows(covered) for row in sound(batch)]
        room = capacity(self.space, self.settings)
        growing = Gathered(self.space, self.codes, self.books, template, max(room, len(rows) + room // 4))
        growing.add_stored(rows)
        return growing


def rebuilt(
    store: RowStore,
    files: SegmentFiles,
    space: Space,
    books: Codebooks,
    settings: IndexSettings,
    entry: SegmentEntry,
    template: Template | None,
) -> Part | None:
    """The living rows of a segment's range, from the store, as a new one; not yet named there. None: none lives.

    Raises IndexDamaged where a row is damaged.
    """
    rows = store.rows(entry.first_seq - 1, entry.last_seq)
    return built(rows, int(entry.manifest["rows"]), files, space, books, settings, template)


def built(
    batches: Iterable[list[StoredRow]],
    capacity: int,
    files: SegmentFiles,
    space: Space,
    books: Codebooks,
    settings: IndexSettings,
    template: Template | None,
) -> Part | None:
    """A segment of at most `capacity` rows. Raises IndexDamaged where one is damaged."""
    table = GrowingTable(space, capacity, books)
    for batch in batches:
        table.append(sound(batch), [space.unpack(row.vector) for row in batch])
    view = table.view()
    if not len(view):
        return None
    source = Source(Part(view, None, None, np.empty(0, np.int32)), np.arange(len(view)))
    return files.build(segment_name(view.seqs[-1]), [source], template, settings.index_type)


def _entry(part: Part) -> SegmentEntry:
    assert part.entry is not None
    return part.entry


def sound(rows: list[StoredRow]) -> list[StoredRow]:
    for row in rows:
        if not row.sound:
            raise IndexDamaged(f"row {row.seq} ({row.id!r}) is damaged; `parakh index verify --repair`")
    return rows
