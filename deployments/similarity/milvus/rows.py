"""Items as rows of a Milvus collection, and back, bit for bit.

Vectors go in as the space's canonical rows (float16 or float32), held as FLOAT_VECTOR, whose components are float32:
exact both ways. Frame vectors go into the same row, so that a write is whole or not at all: base64 text cut into the
elements of an ARRAY of VARCHAR, which takes what one VARCHAR (65 535 bytes) does not. Message brokers behind Milvus
refuse rows above 5 MiB, so frames are capped at MAX_FRAMES_BYTES; more are refused before anything is written.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import CollectionSchema, DataType, MilvusClient

from deployments.runtime.errors import TooLarge
from deployments.similarity.checks import attributes_json
from deployments.similarity.spaces import MAX_SET_SIZE, JaccardSpace, Space
from deployments.similarity.values import MAX_ATTRIBUTES_BYTES, MAX_ID_BYTES, FrameVectors, Item

MAX_FRAMES_BYTES = 3 << 20  # 768 frames of 2048 float16
_ELEMENT = 65_532  # characters of base64: a multiple of 4 below VARCHAR's 65 535
_ELEMENTS = 1 + -(-(MAX_FRAMES_BYTES * 4 // 3 + 4) // _ELEMENT)
_LABEL = 64

Row = dict[str, Any]


class RowFormat:
    """The columns of one space. Sets (Jaccard) are searched by their signatures and kept whole beside them."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.holds_sets = isinstance(space, JaccardSpace)
        self.scored_field = "tokens" if self.holds_sets else "vector"
        labels = ["created_at", "language", "content_type", "attributes"]
        self.light_fields = ["id", self.scored_field, *labels, "frames_bytes"]
        self.all_fields = [*self.light_fields, "frames"]

    @property
    def scored_bytes(self) -> int:
        """Of what one candidate's exact score is computed from, as it travels."""
        if self.holds_sets:
            return MAX_SET_SIZE * 8 * 4 // 3
        return self.space.dimension // 8 if self.space.binary else self.space.dimension * 4

    def schema(self, description: str) -> CollectionSchema:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
        kind = DataType.BINARY_VECTOR if self.space.binary else DataType.FLOAT_VECTOR
        schema.add_field("vector", kind, dim=self.space.code_dimension)
        schema.add_field("created_at", DataType.DOUBLE)
        schema.add_field("language", DataType.VARCHAR, max_length=_LABEL)
        schema.add_field("content_type", DataType.VARCHAR, max_length=_LABEL)
        schema.add_field("attributes", DataType.VARCHAR, max_length=MAX_ATTRIBUTES_BYTES)
        schema.add_field("frames_bytes", DataType.INT64)  # of the next column, so that answers can be kept small
        schema.add_field(
            "frames", DataType.ARRAY, element_type=DataType.VARCHAR, max_length=_ELEMENT, max_capacity=_ELEMENTS
        )
        if self.holds_sets:
            schema.add_field("tokens", DataType.VARCHAR, max_length=_ELEMENT)
        return schema

    def queries(self, queries: Sequence[NDArray[Any]]) -> list[Any]:
        """What Milvus searches with, for queries of the space."""
        if self.space.binary:
            codes = self.space.codes_input(self.space.pack(queries))
            return [code.tobytes() for code in codes]
        return [query.astype(np.float32) for query in queries]

    def row(self, item: Item) -> Row:
        """`item` is checked. Raises TooLarge."""
        frames = _frames_text(item.frames)
        row: Row = {
            "id": item.id,
            "vector": self.queries([item.vector])[0],
            "created_at": float(item.created_at),
            "language": item.language,
            "content_type": item.content_type,
            "attributes": attributes_json(item),
            "frames_bytes": sum(map(len, frames)),
            "frames": frames,
        }
        if self.holds_sets:
            row["tokens"] = base64.b64encode(item.vector.astype("<u8").tobytes()).decode()
        return row

    def scored(self, row: Mapping[str, Any]) -> NDArray[Any]:
        """The stored row that exact scores are computed from."""
        value = row[self.scored_field]
        if self.holds_sets:
            return np.frombuffer(base64.b64decode(value), "<u8").astype(self.space.row_dtype)
        if self.space.binary:
            return np.frombuffer(value[0] if isinstance(value, list) else value, np.uint8)
        return np.asarray(value, np.float32).astype(self.space.row_dtype)

    def item(self, row: Mapping[str, Any]) -> Item:
        return Item(
            id=row["id"],
            vector=self.scored(row),
            created_at=float(row["created_at"]),
            language=row["language"],
            content_type=row["content_type"],
            attributes=json.loads(row["attributes"]),
            frames=_frames_of(list(row.get("frames", ())), self.space.dimension),
        )


def request_bytes(row: Row) -> int:
    """About what a row takes of a request."""
    vector = row["vector"]
    size = vector.nbytes if isinstance(vector, np.ndarray) else len(vector)
    texts = [row["id"], row["attributes"], row.get("tokens", ""), *row["frames"]]
    return 128 + size + sum(len(text) * (1 if text.isascii() else 4) for text in texts)


def _frames_text(frames: FrameVectors | None) -> list[str]:
    """[] for none; else how many, then base64 of times (float32) and vectors (float16), little-endian, in pieces."""
    if frames is None:
        return []
    data = frames.times_s.astype("<f4").tobytes() + frames.vectors.astype("<f2").tobytes()
    if len(data) > MAX_FRAMES_BYTES:
        raise TooLarge(f"The frame vectors of one item exceed {MAX_FRAMES_BYTES >> 20} MiB.")
    text = base64.b64encode(data).decode()
    return [str(len(frames.times_s)), *(text[at : at + _ELEMENT] for at in range(0, len(text), _ELEMENT))]


def _frames_of(pieces: Sequence[str], dimension: int) -> FrameVectors | None:
    if not pieces:
        return None
    count = int(pieces[0])
    data = base64.b64decode("".join(pieces[1:]))
    times_s = np.frombuffer(data, "<f4", count)
    vectors = np.frombuffer(data, "<f2", count * dimension, offset=times_s.nbytes)
    return FrameVectors(vectors.reshape(count, dimension).astype(np.float16), times_s.astype(np.float32))
