"""The conformance suite on every backend. What a backend cannot do, `backends.py` declares, and is tested, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.runtime.errors import InvalidInput
from deployments.similarity.settings import IndexSettings
from tests.similarity import conformance
from tests.similarity.backends import ALL_SETTINGS, BACKENDS, IndexBackend
from tests.similarity.conftest import params


def _pairs(supported: bool, wanted: list[IndexSettings]) -> list[object]:
    """(backend, settings) as parameters."""
    slow = [pytest.mark.system, pytest.mark.slow]
    return [
        pytest.param(b, s, id=f"{b.name}-{s.metric}-{s.index_type}", marks=slow if b.slow else [])
        for b in BACKENDS
        for s in wanted
        if b.supports(s) is supported and (b.trains or wanted is ALL_SETTINGS)
    ]


APPROXIMATE = [s for s in ALL_SETTINGS if s.metric == "cosine" and s.index_type != "FLAT"]


@pytest.mark.parametrize("backend", params(), indirect=True)
class TestEveryBackend(conformance.Conformance):
    pass


@pytest.mark.parametrize("backend", params(lambda backend: backend.durable), indirect=True)
class TestDurableBackends(conformance.Restart):
    pass


@pytest.mark.parametrize(("backend", "settings"), _pairs(True, ALL_SETTINGS), indirect=["backend"])
class TestEverySetting(conformance.EverySetting):
    pass


@pytest.mark.parametrize(("backend", "settings"), _pairs(True, APPROXIMATE), indirect=["backend"])
class TestRecall(conformance.Recall):
    pass


@pytest.mark.parametrize(("backend", "settings"), _pairs(False, ALL_SETTINGS), indirect=["backend"])
def test_what_a_backend_lacks_it_refuses_at_once(
    backend: IndexBackend, settings: IndexSettings, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=r"index type|binary vectors"):
        backend.open(settings, 32, tmp_path / "index")
