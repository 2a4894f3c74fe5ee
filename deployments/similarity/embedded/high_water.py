"""How far acknowledged writes reached, kept outside the database they are in.

SQLite's WAL ends, for SQLite, at its first damaged frame: one flipped byte silently cuts off every later commit. A
mark that was flushed before the acknowledgement, in a file of its own, tells a cut from an end. Two slots in two disk
blocks are written in turn, so that a torn write leaves the other.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 4096  # no disk tears a write across more than this
_SLOT = struct.Struct("<8sQQQQ8s")
_MAGIC = b"prkhmark"


@dataclass(frozen=True)
class Mark:
    """State of the rows after one commit."""

    commit: int
    last_seq: int
    items: int
    digest: int  # sum of the rows' checksums modulo 2**64: the set of rows, whatever their order

    def _packed(self) -> bytes:
        body = _SLOT.pack(_MAGIC, self.commit, self.last_seq, self.items, self.digest, b"")[:-8]
        return body + hashlib.blake2b(body, digest_size=8).digest()


class HighWater:
    """The mark's file. One writer."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if os.fstat(self._file).st_size < 2 * _BLOCK:  # new, or its making was cut short: it held no mark yet
            self._reserve()
            flush(path.parent)

    @property
    def torn_slots(self) -> int:
        """Slots that were written and are not whole: one after a crash in a write; by damage otherwise."""
        return sum(any(self._data(slot)) and self._slot(slot) is None for slot in (0, 1))

    def read(self) -> Mark | None:
        """The newest whole slot; None where there is none."""
        marks = [mark for slot in (0, 1) if (mark := self._slot(slot)) is not None]
        return max(marks, key=lambda mark: mark.commit, default=None)

    def write(self, mark: Mark) -> None:
        """On return it is on the disk."""
        os.pwrite(self._file, mark._packed(), (mark.commit % 2) * _BLOCK)
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def _reserve(self) -> None:
        """Both blocks written once, so that a full disk never meets a mark."""
        size = os.fstat(self._file).st_size
        os.pwrite(self._file, bytes(2 * _BLOCK - size), size)
        os.fsync(self._file)

    def _data(self, slot: int) -> bytes:
        return os.pread(self._file, _SLOT.size, slot * _BLOCK)

    def _slot(self, slot: int) -> Mark | None:
        data = self._data(slot)
        if len(data) < _SLOT.size or hashlib.blake2b(data[:-8], digest_size=8).digest() != data[-8:]:
            return None
        magic, commit, last_seq, items, digest, _ = _SLOT.unpack(data)
        return Mark(commit, last_seq, items, digest) if magic == _MAGIC else None


def flush(path: Path) -> None:
    """The file or directory is on the disk on return."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
