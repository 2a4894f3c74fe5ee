"""Rows in memory under the partition's template, between the write buffers and a segment file.

Append-only columns and, each time rows come, a new copy of the index: who searches the old one is not disturbed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.embedded.codes import Codes, Template
from deployments.similarity.embedded.segment import Part, Source
from deployments.similarity.embedded.stored import StoredRow
from deployments.similarity.embedded.table import Codebooks, GrowingTable
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import Space

_MAX_BYTES = 32 << 20
_CHUNK = 1024


def capacity(space: Space, settings: IndexSettings) -> int:
    """Rows that are gathered before they become a segment: bounded, as each arrival copies their codes."""
    return max(256, min(settings.seal_rows, _MAX_BYTES // (4 * (space.row_width or 256))))


class Gathered:
    """One thread adds."""

    def __init__(self, space: Space, codes: Codes, books: Codebooks, template: Template | None, room: int) -> None:
        self._space = space
        self._codes = codes
        self._table = GrowingTable(space, room, books)
        self._lists = np.empty(room, np.int32)
        self._index = codes.empty(template)
        self.template = template

    def __len__(self) -> int:
        return self._table.count

    @property
    def room(self) -> int:
        return self._table.capacity - self._table.count

    @property
    def last_seq(self) -> int:
        """0 where nothing is gathered."""
        return int(self._table.view().seqs[-1]) if len(self) else 0

    @property
    def nbytes(self) -> int:
        return self._table.view().rows.nbytes + self._table.count * 40

    def add_stored(self, stored: Sequence[StoredRow]) -> None:
        """Rows as the store has them: the replay of a restart, when nobody searches yet."""
        for start in range(0, len(stored), _CHUNK):
            some = stored[start : start + _CHUNK]
            rows = [self._space.unpack(row.vector) for row in some]
            self._index_rows(self._index, self._space.codes_input(self._space.pack(rows)))
            self._table.append(some, rows)

    def add(self, sources: Sequence[Source]) -> None:
        """Rows of buffers or of another part, in order of seq; `part` shows them."""
        index, before = self._codes.copy(self._index), len(self)
        try:
            for source in sources:
                for start in range(0, len(source.positions), _CHUNK):
                    positions = source.positions[start : start + _CHUNK]
                    self._index_rows(index, self._space.codes_input(source.part.table.rows.take(positions)))
                    self._table.extend(source.part.table, positions)
        except BaseException:  # else the table were ahead of the index for ever
            self._table.shorten(before)
            raise
        self._index = index

    def part(self, before: Part | None) -> Part | None:
        """What is gathered by now, as a part; `before` is what `part` gave last: its dead stay dead."""
        if not len(self):
            return None
        table = self._table.view()
        return Part(table, self._index, self.template, self._lists[: len(table)], dead=before.dead if before else 0)

    def _index_rows(self, index: Any, vectors: NDArray[Any]) -> None:
        lists = self._codes.assign(self.template, vectors) if self.template else np.zeros(len(vectors), dtype=np.int32)
        start = index.ntotal
        self._lists[start : start + len(lists)] = lists
        self._codes.add(index, vectors, lists)
