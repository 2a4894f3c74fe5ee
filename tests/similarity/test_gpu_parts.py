"""The device's part in a search. The copy is made by FAISS on the CPU here; the path around it is the real one."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from pydantic import ValidationError

from deployments.similarity.content import EncoderId
from deployments.similarity.embedded import gpu as device
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.settings import IndexSettings, IndexType
from deployments.similarity.values import Filter, Item

ENCODER = EncoderId("e", "1")
_N, _D = 3000, 16


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was put on the device."""
    made: list[object] = []

    def copied(index: object) -> object:
        made.append(index)
        return faiss.clone_index(index)

    monkeypatch.setattr(device, "_on", lambda number: copied)
    monkeypatch.setattr(device, "_FROM_ROWS", 1000)
    return made


@pytest.mark.parametrize("index_type", ["FLAT", "IVF_FLAT", "IVF_SQ8"])
def test_large_segments_are_searched_on_the_device(tmp_path: Path, copies: list[object], index_type: IndexType) -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((_N, _D)).astype(np.float32)
    settings = IndexSettings(index_type=index_type, train_from=1000, device="cuda:0", nprobe=2048)
    index = EmbeddedIndex(tmp_path, settings, _D, ENCODER, maintain=False)
    index.load([[Item(str(i), vector, created_at=float(i)) for i, vector in enumerate(vectors)]])
    assert copies
    assert index.view.segments[0].gpu is not None
    index.delete([str(i) for i in range(0, _N, 3)])
    living = [i for i in range(_N) if i % 3]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = unit[:20]
    cosines = queries @ unit.T
    for row, found in enumerate(index.search(queries, 10)):
        best = sorted(living, key=lambda i: -cosines[row, i])[:10]
        assert {int(id_) for id_ in found.ids} == set(best)
        assert found.scores == pytest.approx(sorted(cosines[row, best], reverse=True), abs=1e-3)
    late = Filter(created_from=float(_N - 50))
    assert all(int(id_) >= _N - 50 for id_ in index.search(queries[:1], 10, filter=late)[0].ids)
    index.close()


def test_a_device_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    if faiss.get_num_gpus() > 7:
        pytest.skip("this machine has eight GPUs")
    with pytest.raises(ValueError, match=r"cuda:7: FAISS sees \d+ GPUs"):
        EmbeddedIndex.open(tmp_path, IndexSettings(device="cuda:7"), _D, ENCODER)


@pytest.mark.parametrize("index_type", ["HNSW", "IVF_PQ", "IVF_RABITQ"])
def test_types_without_a_form_for_a_gpu_are_refused(index_type: str) -> None:
    with pytest.raises(ValidationError, match="no form for a GPU"):
        IndexSettings.model_validate({"index_type": index_type, "device": "cuda:0"})
