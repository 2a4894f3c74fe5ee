"""What the row store keeps, as it lies in the database: rows, what names a segment, and the checksums over them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.checks import attributes_json
from deployments.similarity.values import FrameVectors, Item


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
    frames: bytes  # checksum of its frame vectors; empty: it has none
    checksum: int

    @property
    def sound(self) -> bool:
        return self.checksum == self.summed >= 0

    @property
    def summed(self) -> int:
        """64 bits over every column; lengths go in, so that no byte can move from one to the next. -1: it is no row."""
        try:
            texts = [text.encode() for text in (self.id, self.language, self.content_type, self.attributes)]
            head = struct.pack("<qd5I", self.seq, self.created_at, *map(len, texts), len(self.frames))
            digest = hashlib.blake2b(head, digest_size=8)
            for part in (*texts, self.frames, self.vector):
                digest.update(part)
        except (AttributeError, TypeError, ValueError, struct.error):  # a column of another type: damage can do that
            return -1
        return int.from_bytes(digest.digest(), "little")


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

    def columns(self) -> tuple[str, int, int, str, bytes]:
        manifest = json.dumps(self.manifest)
        return self.name, self.first_seq, self.last_seq, manifest, _entry_checksum(self, manifest)

    @classmethod
    def of(cls, name: Any, first_seq: Any, last_seq: Any, manifest: Any, checksum: Any) -> SegmentEntry | None:
        """None where the checksum does not hold."""
        try:
            entry = cls(name, first_seq, last_seq, json.loads(manifest))
            return entry if _entry_checksum(entry, manifest) == checksum else None
        except (TypeError, ValueError):
            return None


def row_of(seq: int, item: Item, frames: bytes | None) -> StoredRow:
    """The row that keeps `item`. frames: as `frames_bytes` gives them."""
    row = StoredRow(
        seq,
        item.id,
        float(item.created_at),
        item.language,
        item.content_type,
        attributes_json(item),
        item.vector.tobytes(),
        b"" if frames is None else frames_checksum(seq, frames),
        0,
    )
    return dataclasses.replace(row, checksum=row.summed)


def item_of(row: StoredRow, vector: NDArray[Any], frames: FrameVectors | None) -> Item:
    return Item(row.id, vector, row.created_at, row.language, row.content_type, json.loads(row.attributes), frames)


def row_columns(row: StoredRow) -> tuple[Any, ...]:
    return (
        row.seq, row.id, row.created_at, row.language, row.content_type, row.attributes, row.vector, row.frames,
        to_blob(row.checksum),
    )  # fmt: skip


def stored_row(columns: tuple[Any, ...]) -> StoredRow:
    """A row as read: damage may have made anything of it, and then it is not `sound`."""
    seq, id_, created_at, language, content_type, attributes, vector, frames, checksum = columns
    return StoredRow(seq, id_, created_at, language, content_type, attributes, vector, frames, from_blob(checksum))


def frames_checksum(seq: int, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=8, salt=struct.pack("<q", seq)).digest()


def frames_bytes(frames: FrameVectors) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, vectors=frames.vectors, times_s=frames.times_s)
    return buffer.getvalue()


def frames_of(data: bytes) -> FrameVectors:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return FrameVectors(arrays["vectors"], arrays["times_s"])


def to_blob(value: int) -> bytes:
    return value.to_bytes(8, "little")  # SQLite's own integers are signed


def from_blob(value: Any) -> int:
    """-1 for what is no such blob."""
    return int.from_bytes(value, "little") if isinstance(value, bytes) and len(value) == 8 else -1


def _entry_checksum(entry: SegmentEntry, manifest: str) -> bytes:
    text = json.dumps([entry.name, entry.first_seq, entry.last_seq, manifest])
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
