"""Tables of stored rows: of one width (vectors, signatures), or each of its own (sets). Saved as .npy, read by mmap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Rows(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> NDArray[Any]: ...

    def take(self, positions: NDArray[np.intp]) -> Rows: ...

    @property
    def nbytes(self) -> int: ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Name -> array: what is written to disk."""
        ...


class FixedRows:
    def __init__(self, matrix: NDArray[Any]) -> None:
        self.matrix = matrix  # (n, width)

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, position: int) -> NDArray[Any]:
        row: NDArray[Any] = self.matrix[position]
        return row

    def take(self, positions: NDArray[np.intp]) -> FixedRows:
        return FixedRows(self.matrix.take(positions, axis=0))

    @property
    def nbytes(self) -> int:
        return int(self.matrix.nbytes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"rows": self.matrix}


class RaggedRows:
    def __init__(self, values: NDArray[Any], ends: NDArray[np.int64]) -> None:
        self._values = values  # all rows end to end
        self._ends = ends  # (n,) where each ends

    @classmethod
    def of(cls, rows: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> RaggedRows:
        values = np.concatenate(rows) if rows else np.empty(0, dtype)
        return cls(values.astype(dtype, copy=False), np.cumsum([len(row) for row in rows], dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> NDArray[Any]:
        start = self._ends[position - 1] if position else 0
        row: NDArray[Any] = self._values[start : self._ends[position]]
        return row

    def take(self, positions: NDArray[np.intp]) -> RaggedRows:
        return RaggedRows.of([self[int(position)] for position in positions], self._values.dtype)

    @property
    def nbytes(self) -> int:
        return int(self._values.nbytes + self._ends.nbytes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"rows": self._values, "row_ends": self._ends}


Chosen = Sequence[tuple[Rows, NDArray[np.intp]]]
"""Rows at some positions of each of several tables, all of one kind; not empty."""


def gathered(chosen: Chosen) -> Rows:
    """Side by side."""
    return concatenated([rows.take(positions) for rows, positions in chosen])


def concatenated(tables: Sequence[Rows]) -> Rows:
    """All of one kind. `tables` is not empty."""
    if len(tables) == 1:
        return tables[0]
    if isinstance(tables[0], FixedRows):
        return FixedRows(np.concatenate([table.arrays()["rows"] for table in tables]))
    rows = [table[i] for table in tables for i in range(len(table))]
    return RaggedRows.of(rows, tables[0].arrays()["rows"].dtype)


def save(rows: Rows, directory: Path) -> None:
    for name, array in rows.arrays().items():
        np.save(directory / f"{name}.npy", array, allow_pickle=False)


def load(directory: Path) -> Rows:
    """Memory-mapped, read-only."""
    values = mapped(directory / "rows.npy")
    ends = directory / "row_ends.npy"
    if not ends.exists():
        return FixedRows(values)
    return RaggedRows(values, mapped(ends))


def mapped(path: Path) -> NDArray[Any]:
    """The array in a .npy file, read-only, where it lies; a plain ndarray, as np.memmap's own indexing is slow."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
