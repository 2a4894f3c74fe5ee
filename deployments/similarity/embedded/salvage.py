"""Rows out of a database whose pages cannot all be read: a new one of every row that can, and is sound.

The damaged files are kept beside it under names of their own.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

from deployments.similarity.embedded.high_water import HighWater, flush
from deployments.similarity.embedded.store import HIGH_WATER, ROWS, connect_to_read, create_database
from deployments.similarity.embedded.stored import stored_row
from deployments.similarity.errors import IndexDamaged

logger = logging.getLogger(__name__)

_WINDOW = 4096
_TABLES = ("meta", "state", "tombstones", "segments", "frames", "rows")
_SALVAGED = f"{ROWS}.salvaged"
_DAMAGED = ".damaged"


def salvage(directory: Path) -> list[str]:
    """What was found unreadable and left behind, in words; nothing, and nothing done, where all can be read.

    Raises IndexDamaged where nothing can.
    """
    path, new = directory / ROWS, directory / _SALVAGED
    if path.exists():
        found = _unreadable(path)
        if not found:
            return []
        _salvaged(path, new)
    elif not new.exists():
        return []
    else:  # a crash came between the next two steps
        found = [f"{ROWS} was salvaged before"]
    for name in (ROWS, f"{ROWS}-wal"):
        if (directory / name).exists():
            (directory / name).rename(directory / (name + _DAMAGED))
    (directory / f"{ROWS}-shm").unlink(missing_ok=True)
    new.rename(path)
    flush(directory)
    return found


def _unreadable(path: Path) -> list[str]:
    found = []
    with contextlib.closing(connect_to_read(path)) as source:
        for table in _TABLES:
            try:
                for _ in source.execute(f"SELECT * FROM {table} NOT INDEXED"):  # noqa: S608
                    pass
            except sqlite3.DatabaseError as error:
                found.append(f"{table} cannot all be read: {error}")
    return found


def _salvaged(path: Path, new: Path) -> None:
    new.unlink(missing_ok=True)
    with contextlib.closing(connect_to_read(path)) as source:
        try:
            meta = dict(source.execute("SELECT key, value FROM meta"))
        except sqlite3.DatabaseError as error:
            raise IndexDamaged(f"{ROWS} is not readable ({error}); restore the index from a backup") from error
        create_database(new, {key: value for key, value in meta.items() if key not in ("format", "checksum")})
        with contextlib.closing(sqlite3.connect(new)) as target:
            for table in ("tombstones", "segments"):
                with contextlib.suppress(sqlite3.DatabaseError):
                    _copy_whole(source, target, table)
            with contextlib.suppress(sqlite3.DatabaseError):
                (covered,) = source.execute("SELECT covered_seq FROM state").fetchone()
                target.execute("UPDATE state SET covered_seq = ?", (covered,))
            for first in range(0, _last_seq(source, path) + 1, _WINDOW):
                for table in ("rows", "frames"):
                    _copy_range(source, target, table, first, first + _WINDOW - 1)
            target.commit()
    flush(new)


def _last_seq(source: sqlite3.Connection, path: Path) -> int:
    marks = HighWater(path.parent / HIGH_WATER)
    mark = marks.read()
    marks.close()
    last = mark.last_seq if mark else 0
    with contextlib.suppress(sqlite3.DatabaseError, TypeError):
        last = max(last, int(source.execute("SELECT last_seq FROM state").fetchone()[0]))
    return last


def _copy_whole(source: sqlite3.Connection, target: sqlite3.Connection, table: str) -> None:
    rows = source.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
    for row in rows:
        target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * len(row))})", row)  # noqa: S608


def _copy_range(source: sqlite3.Connection, target: sqlite3.Connection, table: str, first: int, last: int) -> None:
    """Halves, down to the single row, around what cannot be read."""
    try:
        query = f"SELECT * FROM {table} WHERE seq BETWEEN ? AND ?"  # noqa: S608
        rows = source.execute(query, (first, last)).fetchall()
    except sqlite3.DatabaseError:
        if first < last:
            middle = (first + last) // 2
            _copy_range(source, target, table, first, middle)
            _copy_range(source, target, table, middle + 1, last)
        return
    for row in rows:
        if table != "rows" or stored_row(row).sound:
            target.execute(f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * len(row))})", row)  # noqa: S608
