"""Vectors like real embeddings: topics of Zipf sizes, each spread along few directions of its own, a common offset.

Neither random (hopeless for any index) nor blobs (too easy): intrinsic dimension about 15 at any d, cosine to the
tenth neighbour about 0.8, of random pairs about 0.1. Unit length.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

_TOPICS = 3600
_FIELDS = 60  # topics of one field lie near each other: a rare topic's neighbours are in those
_BASES = 64
_INTRINSIC = 16


def embeddings(n: int, d: int, seed: int = 0) -> Vectors:
    """(n, d). Of one d, all seeds draw from the same topics."""
    shape = np.random.default_rng(d)
    fields = shape.standard_normal((_FIELDS, d), dtype=np.float32)[np.arange(_TOPICS) % _FIELDS]
    centres = (0.8 * fields + 0.6 * shape.standard_normal((_TOPICS, d), dtype=np.float32)) / np.sqrt(d)
    offset = 0.35 * shape.standard_normal(d, dtype=np.float32) / np.sqrt(d)
    bases = shape.standard_normal((_BASES, _INTRINSIC, d), dtype=np.float32) / np.sqrt(d)
    spread = (0.45 / np.arange(1, _INTRINSIC + 1) ** 0.25).astype(np.float32)
    share = 1 / np.arange(1, _TOPICS + 1)
    random = np.random.default_rng((d, seed))
    topics = random.choice(_TOPICS, n, p=share / share.sum())
    vectors = np.empty((n, d), np.float32)
    for base in range(_BASES):
        mine = np.flatnonzero(topics % _BASES == base)
        steps = random.standard_normal((len(mine), _INTRINSIC), dtype=np.float32) * spread
        noise = random.standard_normal((len(mine), d), dtype=np.float32) * np.float32(0.3 / np.sqrt(d))
        vectors[mine] = centres[topics[mine]] + offset + steps @ bases[base] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def neighbours(vectors: Vectors, queries: Vectors, k: int) -> NDArray[np.int64]:
    """(len(queries), k) exact."""
    found: NDArray[np.int64] = faiss.knn(queries, vectors, k, faiss.METRIC_INNER_PRODUCT)[1]
    return found


def recall(found: list[list[int]], truth: NDArray[np.int64]) -> float:
    """Share of the true neighbours that were found."""
    hits = [len(set(mine) & set(row.tolist())) / len(row) for mine, row in zip(found, truth, strict=True)]
    return float(np.mean(hits))
