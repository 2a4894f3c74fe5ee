"""Scores are computed from the rows, whatever arithmetic found the candidates."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from deployments.similarity.content import EncoderId
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.settings import IndexSettings, IndexType
from deployments.similarity.values import Item


@pytest.mark.parametrize("index_type", ["FLAT", "IVF_FLAT"])
@pytest.mark.parametrize("sealed", [False, True])
def test_small_distances_between_long_vectors_are_not_lost(
    tmp_path: Path, index_type: IndexType, sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """|a|^2 + |b|^2 - 2ab in float32, as FAISS takes it from some number of queries on, is off by hundreds here."""
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 1)
    random = np.random.default_rng(0)
    vectors = (1e5 * random.standard_normal((600, 64))).astype(np.float32)
    settings = IndexSettings(metric="l2", index_type=index_type, row_dtype="float32", train_from=256, nprobe=2048)
    index = EmbeddedIndex(tmp_path, settings, 64, EncoderId("e", "1"), maintain=False)
    index.upsert([Item(str(i), vector) for i, vector in enumerate(vectors)])
    if sealed:
        index.upkeep.snapshot()
        index.upkeep.maintain()
    queries = vectors[:40] + np.float32(0.5)
    for number, found in enumerate(index.search(queries, 1, threshold=1e9)):
        assert found.ids == (str(number),)
        assert found.scores[0] == pytest.approx(np.linalg.norm(queries[number] - vectors[number]), rel=1e-3)
    index.close()
