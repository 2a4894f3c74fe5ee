"""The columns beside the codes: which row is which item, what filters look at, and which rows still live.

A Table never changes but for `alive`, where rows only die. A GrowingTable is appended to in place and hands out
Tables of its first n rows: readers hold one, and never see what came later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.embedded.stored import StoredRow
from deployments.similarity.rows import FixedRows, RaggedRows, Rows
from deployments.similarity.spaces import Space
from deployments.similarity.values import Filter


class Ids(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> str: ...


class Codebook:
    """Short texts (languages, content types) as small numbers, the same for all tables of an index."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._lock = threading.Lock()

    def code(self, text: str) -> int:
        code = self._codes.get(text)
        if code is None:
            with self._lock:
                code = self._codes.setdefault(text, len(self._codes))
        return code

    def known(self, texts: Iterable[str]) -> list[int]:
        return [code for text in texts if (code := self._codes.get(text)) is not None]

    def texts(self) -> list[str]:
        return list(self._codes)


@dataclass(frozen=True)
class Codebooks:
    languages: Codebook
    content_types: Codebook


@dataclass(frozen=True)
class Table:
    """n rows in order of seq. `alive` is shared with whoever kills; all else is constant."""

    seqs: NDArray[np.int64]
    ids: Ids
    created_at: NDArray[np.float64]
    languages: NDArray[np.uint16]
    content_types: NDArray[np.uint16]
    checksums: NDArray[np.uint64]
    rows: Rows
    alive: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.seqs)

    def position(self, seq: int) -> int | None:
        """Where row `seq` is; None where it is not here."""
        position = int(np.searchsorted(self.seqs, seq))
        return position if position < len(self.seqs) and self.seqs[position] == seq else None

    def passing(self, filter: Filter, books: Codebooks, excluded: Sequence[int]) -> NDArray[np.bool_]:
        """(n,) living rows that pass. excluded: seqs of the items that `filter` excludes."""
        mask = self.alive.copy()
        if filter.languages:
            mask &= np.isin(self.languages, books.languages.known(filter.languages))
        if filter.content_types:
            mask &= np.isin(self.content_types, books.content_types.known(filter.content_types))
        if filter.created_from is not None:
            mask &= self.created_at >= filter.created_from
        if filter.created_until is not None:
            mask &= self.created_at < filter.created_until
        for seq in excluded:
            if (position := self.position(seq)) is not None:
                mask[position] = False
        return mask

    def digest(self) -> tuple[int, int]:
        """(living rows, sum of their checksums modulo 2**64)."""
        alive = np.asarray(self.alive)
        return int(alive.sum()), int(np.asarray(self.checksums)[alive].sum(dtype=np.uint64))


class GrowingTable:
    """Room for `capacity` rows. One thread appends."""

    def __init__(self, space: Space, capacity: int, books: Codebooks) -> None:
        self._books = books
        self._seqs = np.empty(capacity, np.int64)
        self._ids: list[str] = []
        self._created_at = np.empty(capacity, np.float64)
        self._languages = np.empty(capacity, np.uint16)
        self._content_types = np.empty(capacity, np.uint16)
        self._checksums = np.empty(capacity, np.uint64)
        self._alive = np.ones(capacity, np.bool_)
        self._rows = _growing_rows(space, capacity)
        self.capacity = capacity
        self.count = 0

    def append(self, stored: Sequence[StoredRow], rows: Sequence[NDArray[Any]]) -> None:
        """Rows of the store, and their vectors as the space keeps them. There is room for them."""
        start, end = self.count, self.count + len(stored)
        for position, row in enumerate(stored, start):
            self._seqs[position] = row.seq
            self._created_at[position] = row.created_at
            self._languages[position] = self._books.languages.code(row.language)
            self._content_types[position] = self._books.content_types.code(row.content_type)
            self._checksums[position] = row.checksum
        self._rows.put(start, rows)
        self._ids += [row.id for row in stored]
        self.count = end

    def extend(self, table: Table, positions: NDArray[np.intp]) -> None:
        """Rows of another table; their `alive` is for the caller to bring, under its lock."""
        start, end = self.count, self.count + len(positions)
        self._seqs[start:end] = table.seqs[positions]
        self._created_at[start:end] = table.created_at[positions]
        self._languages[start:end] = table.languages[positions]
        self._content_types[start:end] = table.content_types[positions]
        self._checksums[start:end] = table.checksums[positions]
        taken = table.rows.take(positions)
        self._rows.put(start, taken.matrix if isinstance(taken, FixedRows) else [taken[i] for i in range(len(taken))])
        self._ids += [table.ids[int(position)] for position in positions]
        self.count = end

    def shorten(self, count: int) -> None:
        """Give up the rows from `count` on, which nobody was shown."""
        del self._ids[count:]
        self._rows.shorten(count)
        self.count = count

    def alive_now(self) -> NDArray[np.bool_]:
        """(capacity,) of this moment; rows yet to come are alive."""
        return self._alive.copy()

    def view(self, alive: NDArray[np.bool_] | None = None) -> Table:
        """The rows by now; alive: as `alive_now` gave, instead of what is alive from now on."""
        n = self.count
        return Table(
            self._seqs[:n],
            self._ids,  # may be longer by now: no position is beyond n
            self._created_at[:n],
            self._languages[:n],
            self._content_types[:n],
            self._checksums[:n],
            self._rows.view(n),
            (self._alive if alive is None else alive)[:n],
        )


class _GrowingFixed:
    def __init__(self, width: int, dtype: np.dtype[Any], capacity: int) -> None:
        self._matrix = np.empty((capacity, width), dtype)

    def put(self, start: int, rows: Sequence[NDArray[Any]] | NDArray[Any]) -> None:
        if len(rows):
            self._matrix[start : start + len(rows)] = rows

    def shorten(self, count: int) -> None:
        pass

    def view(self, n: int) -> Rows:
        return FixedRows(self._matrix[:n])


class _GrowingRagged:
    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._rows: list[NDArray[Any]] = []

    def put(self, start: int, rows: Sequence[NDArray[Any]] | NDArray[Any]) -> None:
        self._rows += list(rows)

    def shorten(self, count: int) -> None:
        del self._rows[count:]

    def view(self, n: int) -> Rows:
        return RaggedRows.of(self._rows[:n], self._dtype)


def _growing_rows(space: Space, capacity: int) -> _GrowingFixed | _GrowingRagged:
    width = space.row_width
    return _GrowingRagged(space.row_dtype) if width is None else _GrowingFixed(width, space.row_dtype, capacity)
