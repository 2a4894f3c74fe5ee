"""What a search sees: segments, the rows gathered in memory, write buffers. Swapped whole, never changed in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.embedded.segment import Part
from deployments.similarity.embedded.stored import StoredRow
from deployments.similarity.embedded.table import Codebooks, GrowingTable, Table
from deployments.similarity.spaces import Space


class Buffer:
    """The newest rows, searched exactly. One thread appends: rows first, the count last."""

    def __init__(self, space: Space, capacity: int, books: Codebooks) -> None:
        self._space = space
        self._table = GrowingTable(space, capacity, books)
        width = space.code_dimension // 8 if space.binary else space.dimension
        self._inputs = np.empty((capacity, width), np.uint8 if space.binary else np.float32)
        self.dead = 0

    def __len__(self) -> int:
        return self._table.count

    @property
    def capacity(self) -> int:
        return self._table.capacity

    @property
    def room(self) -> int:
        return self._table.capacity - self._table.count

    @property
    def nbytes(self) -> int:
        return int(self._inputs.nbytes) + self._table.view().rows.nbytes

    def append(self, stored: Sequence[StoredRow], rows: Sequence[NDArray[Any]]) -> None:
        start = self._table.count
        self._inputs[start : start + len(rows)] = self._space.codes_input(self._space.pack(rows))
        self._table.append(stored, rows)

    def view(self) -> tuple[Table, NDArray[Any]]:
        table = self._table.view()
        return table, self._inputs[: len(table)]

    def look(self) -> tuple[Table, NDArray[Any]]:
        """As `view`, with `alive` of a moment before: whatever had been replaced by then, its successor is here."""
        alive = self._table.alive_now()
        table = self._table.view(alive)
        return table, self._inputs[: len(table)]

    def as_part(self) -> Part:
        """Its rows, for the upkeep to take on; not to be searched."""
        return Part(self._table.view(), None, None, np.empty(0, np.int32))

    def kill(self, seq: int) -> bool:
        table = self._table.view()
        position = table.position(seq)
        if position is None or not table.alive[position]:
            return False
        table.alive[position] = False
        self.dead += 1
        return True


@dataclass(frozen=True)
class View:
    segments: tuple[Part, ...]
    gathered: Part | None  # sealed rows in memory, indexed, not yet a segment
    sealed: tuple[Buffer, ...]  # full, waiting to be gathered
    buffer: Buffer

    def parts(self) -> tuple[Part, ...]:
        return self.segments if self.gathered is None else (*self.segments, self.gathered)

    def buffers(self) -> tuple[Buffer, ...]:
        return (*self.sealed, self.buffer)

    def newest_first(self) -> Iterator[Part | Buffer]:
        yield from reversed(self.buffers())
        yield from reversed(self.parts())
