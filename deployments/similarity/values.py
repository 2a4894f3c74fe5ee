"""What goes into a vector index and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[Any]
"""float32 (d,) for cosine, inner product and L2; uint8 (d / 8,) for Hamming; uint64 (n,) hashed tokens for Jaccard."""

MAX_ID_BYTES = 512
MAX_ATTRIBUTES_BYTES = 4096


@dataclass(frozen=True)
class FrameVectors:
    """Vectors of a video's frames: kept beside the item to check candidates, not indexed."""

    vectors: NDArray[np.float16]  # (n, d), in order
    times_s: NDArray[np.float32]  # (n,)


@dataclass(frozen=True)
class Item:
    """One indexed thing. `created_at`, `language` and `content_type` are what filters look at."""

    id: str
    vector: Vector
    created_at: float = 0.0  # Unix seconds
    language: str = ""
    content_type: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)  # JSON, at most MAX_ATTRIBUTES_BYTES
    frames: FrameVectors | None = None


@dataclass(frozen=True)
class Filter:
    """Which items count; empty means all. The window is half open: from <= created_at < until."""

    languages: frozenset[str] = frozenset()
    content_types: frozenset[str] = frozenset()
    created_from: float | None = None  # Unix seconds
    created_until: float | None = None
    exclude_ids: frozenset[str] = frozenset()

    @property
    def empty(self) -> bool:
        return not (self.languages or self.content_types or self.exclude_ids) and (
            self.created_from is None and self.created_until is None
        )


@dataclass(frozen=True)
class Neighbours:
    """The answer to one query, best first. Scores are exact: computed from the stored rows, not from codes.

    Similarities (cosine, inner product, Jaccard) fall along the list; distances (L2, Hamming) rise.
    """

    ids: tuple[str, ...]
    scores: NDArray[np.float32]  # (len(ids),)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class IndexStats:
    """State of one index, as listed by `parakh index stats` and exported as metrics."""

    items: int  # findable
    memory_bytes: int  # resident: codes, buffers, row tables
    disk_bytes: int
    buffered: int  # in the write buffer, searched exactly
    deleted: int  # tombstones not yet merged away
    segments: int
    trained_rows: int  # rows the quantiser was trained on; 0: untrained, searched exactly
    newest_at: float | None  # created_at of the newest item
    snapshot_at: float | None  # Unix seconds of the last segment written
    recall_estimate: float | None = None  # of a sample of searches repeated exactly
    details: Mapping[str, Any] = field(default_factory=dict)
