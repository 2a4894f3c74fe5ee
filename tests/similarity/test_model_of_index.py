"""Random sequences of operations, on a backend and on the exact reference side by side, with restarts between."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from deployments.runtime.errors import InvalidInput
from deployments.similarity.brute import BruteIndex, passes
from deployments.similarity.checks import MAX_K
from deployments.similarity.settings import IndexSettings
from deployments.similarity.values import Filter, FrameVectors, Item
from tests.similarity.backends import IndexBackend
from tests.similarity.conftest import params

DIMENSION = 4
IDS = ["a", "b", "c", "aa", "é", "ह", "😀", 'q"', "b\\", "%", "z" * 512]
LANGUAGES = ["", "hi", "ta"]
CONTENT_TYPES = ["", "video", "image"]
SETTINGS = IndexSettings(index_type="FLAT")

ids = st.sampled_from(IDS)
moments = st.sampled_from([-1.0, 0.0, 1.5, 2.0, 1_790_000_000.25])
components = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0])  # few, so that vectors meet
vectors = (
    st.lists(components, min_size=DIMENSION, max_size=DIMENSION)
    .filter(any)
    .map(lambda numbers: np.array(numbers, np.float32))
)
frames = st.none() | st.integers(0, 3).map(
    lambda n: FrameVectors(np.full((n, DIMENSION), n, np.float16), np.arange(n, dtype=np.float32))
)
items = st.builds(
    Item,
    id=ids,
    vector=vectors,
    created_at=moments,
    language=st.sampled_from(LANGUAGES),
    content_type=st.sampled_from(CONTENT_TYPES),
    attributes=st.dictionaries(st.text(max_size=3).filter(str.isprintable), st.integers() | st.booleans(), max_size=2),
    frames=frames,
)
filters = st.builds(
    Filter,
    languages=st.frozensets(st.sampled_from([*LANGUAGES, "xx"]), max_size=2),
    content_types=st.frozensets(st.sampled_from(CONTENT_TYPES), max_size=2),
    created_from=st.none() | moments,
    created_until=st.none() | moments,
    exclude_ids=st.frozensets(ids, max_size=3),
)


class Model(RuleBasedStateMachine):
    backend: IndexBackend
    fresh_path: Callable[[], Path]

    @initialize()
    def start(self) -> None:
        self.path = type(self).fresh_path()
        self.index = self.backend.open(SETTINGS, DIMENSION, self.path)
        self.model = BruteIndex(SETTINGS, DIMENSION)

    @rule(batch=st.lists(items, max_size=12))
    def upsert(self, batch: list[Item]) -> None:
        self.index.upsert(batch)
        self.model.upsert(batch)

    @rule(batch=st.lists(items, max_size=3), bad=st.sampled_from(["dimension", "nan", "zero", "id"]))
    def upsert_with_one_bad_item(self, batch: list[Item], bad: str) -> None:
        vector = {"dimension": np.ones(DIMENSION + 1), "nan": np.full(DIMENSION, np.nan), "zero": np.zeros(DIMENSION)}
        with pytest.raises(InvalidInput):
            self.index.upsert([*batch, Item("a\n" if bad == "id" else "a", vector.get(bad, np.ones(DIMENSION)))])

    @rule(wanted=st.lists(ids | st.just("unknown"), max_size=6))
    def delete(self, wanted: list[str]) -> None:
        assert self.index.delete(wanted) == self.model.delete(wanted)

    @rule(
        query=vectors,
        k=st.sampled_from([1, 3, MAX_K]),
        chosen=st.none() | filters,
        threshold=st.none() | st.sampled_from([-0.5, 0.0, 0.3, 0.7, 0.999]),
        exact=st.booleans(),
    )
    def search(
        self, query: np.ndarray[tuple[int], np.dtype[np.float32]], k: int, chosen: Filter | None,
        threshold: float | None, exact: bool,
    ) -> None:  # fmt: skip
        [found] = self.index.search([query], k, filter=chosen, threshold=threshold, exact=exact)
        [true] = self.model.search([query], MAX_K, filter=chosen, threshold=threshold)
        assert len(set(found.ids)) == len(found)
        assert len(found) == pytest.approx(min(k, len(true)), abs=_at(threshold, true.scores))
        scores = dict(zip(true.ids, true.scores, strict=True))
        for id_, score in zip(found.ids, found.scores, strict=True):
            assert scores.get(id_, threshold) == pytest.approx(score, abs=1e-5)
            assert chosen is None or passes(self.model.get([id_])[id_], chosen)
        shared = min(len(found), len(true))
        np.testing.assert_allclose(found.scores[:shared], true.scores[:shared], atol=1e-5)

    @rule(wanted=st.lists(ids, max_size=4))
    def get(self, wanted: list[str]) -> None:
        found, true = self.index.get(wanted), self.model.get(wanted)
        assert found.keys() == true.keys()
        for id_, item in true.items():
            _same_item(found[id_], item)

    @rule()
    def reopen(self) -> None:
        if self.backend.durable:
            self.index.close()
            self.index = self.backend.open(SETTINGS, DIMENSION, self.path)

    @invariant()
    def holds_the_same(self) -> None:
        assert self.index.scan(limit=5) == self.model.scan(limit=5)
        assert self.index.count() == self.model.count()

    def teardown(self) -> None:
        if hasattr(self, "index"):
            newest = self.model.stats().newest_at
            assert self.index.stats().newest_at == newest
            self.index.close()
            self.backend.remove(self.path)


def _at(threshold: float | None, scores: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    """How many scores stand at the threshold to the last bits: they may count or not."""
    return 0.0 if threshold is None else float(np.sum(np.abs(scores - threshold) < 1e-5)) + 1e-9


def _same_item(one: Item, other: Item) -> None:
    np.testing.assert_array_equal(one.vector, other.vector)
    assert (one.id, one.created_at, one.language, one.content_type, dict(one.attributes)) == (
        other.id, other.created_at, other.language, other.content_type, dict(other.attributes),
    )  # fmt: skip
    assert (one.frames is None) == (other.frames is None)
    if one.frames is not None and other.frames is not None:
        np.testing.assert_array_equal(one.frames.vectors, other.frames.vectors)
        np.testing.assert_array_equal(one.frames.times_s, other.frames.times_s)


@pytest.mark.parametrize("backend", params(), indirect=True)
def test_a_backend_does_what_the_reference_does(backend: IndexBackend, tmp_path: Path) -> None:
    numbers = itertools.count()

    class OfBackend(Model):
        pass

    OfBackend.backend = backend
    OfBackend.fresh_path = staticmethod(lambda: tmp_path / str(next(numbers)))
    run_state_machine_as_test(
        OfBackend,
        settings=settings(
            max_examples=backend.examples,
            stateful_step_count=15 if backend.slow else 30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
