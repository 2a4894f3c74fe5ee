"""A crash at every write: acknowledged is there, deleted stays away, the rest is whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.embedded.verify import verify
from tests.similarity.crash_points import Crashes
from tests.similarity.embedded_world import check, item, opened

IDS = 200
Model = dict[str, int]

spans = st.tuples(st.integers(0, IDS - 1), st.integers(1, 90))
steps = st.one_of(
    st.tuples(st.just("upsert"), spans),
    st.tuples(st.just("upsert"), spans),
    st.tuples(st.just("load"), spans),
    st.tuples(st.just("delete"), spans),
    st.tuples(st.sampled_from(["gather", "snapshot", "freeze", "compact", "retrain", "checkpoint", "reopen"]), spans),
)


class World:
    """One index, what it must hold, and what the operation under way may yet do."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.index: EmbeddedIndex
        self.model: Model = {}
        self.under_way: Model | None = None  # what the model will be
        self._number = 0

    def now(self) -> tuple[Model, Model | None]:
        return dict(self.model), self.under_way

    def do(self, step: str, span: tuple[int, int]) -> None:
        ids = [f"id-{number % IDS}" for number in range(span[0], span[0] + span[1])]
        match step:
            case "upsert" | "load":
                batch = [item(id_, self._next(), frames=self._number % 5 == 0) for id_ in ids]
                wanted = {**self.model, **{one.id: int(one.attributes["number"]) for one in batch}}
                if step == "load":  # durable batch by batch
                    self._write(wanted, lambda: self.index.load([batch]))
                else:
                    self._write(wanted, lambda: self.index.upsert(batch))
            case "delete":
                kept = {id_: number for id_, number in self.model.items() if id_ not in ids}
                self._write(kept, lambda: self.index.delete(ids))
            case "reopen":
                self.index.close()
                self.index = opened(self.directory)
            case "checkpoint":
                self.index.store.checkpoint()
            case "gather":
                self.index.seal()
                self.index.upkeep.gather()
            case _:
                getattr(self.index.upkeep, step)()

    def _write(self, wanted: Model, work: Callable[[], object]) -> None:
        self.under_way = wanted
        work()
        self.model, self.under_way = wanted, None

    def _next(self) -> int:
        self._number += 1
        return self._number


def crash_everywhere(sequence: list[tuple[str, tuple[int, int]]], seed: int, share: float) -> int:
    """How many crashes were survived."""
    root = Path(tempfile.mkdtemp(prefix="crash-"))
    try:
        world = World(root / "index")
        crashes = Crashes(world.directory, root / "crashed", share, seed, world.now)
        with crashes.watching():
            world.index = opened(world.directory)
            for step, span in sequence:
                world.do(step, span)
            world.index.close()
        for directory, step, (model, under_way) in crashes.taken:
            survive(directory, step, model, under_way)
        with closing(opened(world.directory)) as index:
            check(index, world.model)
        return len(crashes.taken)
    finally:
        shutil.rmtree(root)


def survive(directory: Path, step: str, model: Model, under_way: Model | None) -> None:
    try:
        with closing(opened(directory)) as index:
            assert not index.repaired, f"crash {step}: {index.repaired}"
            done = under_way is not None and index.count() == len(under_way) and holds(index, under_way)
            check(index, under_way if done and under_way is not None else model)
            index.upkeep.maintain()
            check(index, under_way if done and under_way is not None else model)
        assert verify(directory).sound
    except Exception as error:
        raise AssertionError(f"crash {step}: {error}") from error


def holds(index: EmbeddedIndex, model: Model) -> bool:
    try:
        check(index, model)
    except AssertionError:
        return False
    return True


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=4, max_size=14), st.integers(0, 2**32))
def test_a_crash_at_any_write_loses_nothing(sequence: list[tuple[str, tuple[int, int]]], seed: int) -> None:
    crash_everywhere(sequence, seed, 0.03)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=4, max_size=40), st.integers(0, 2**32))
def test_a_crash_at_any_write_loses_nothing_for_longer(sequence: list[tuple[str, tuple[int, int]]], seed: int) -> None:
    crash_everywhere(sequence, seed, 0.03)


LIFE = [
    ("upsert", (0, 70)), ("upsert", (60, 80)), ("delete", (5, 20)), ("gather", (0, 1)), ("snapshot", (0, 1)),
    ("upsert", (100, 90)), ("upsert", (0, 30)), ("freeze", (0, 1)), ("upsert", (10, 90)), ("compact", (0, 1)),
    ("load", (120, 80)), ("delete", (130, 10)), ("compact", (0, 1)), ("retrain", (0, 1)), ("checkpoint", (0, 1)),
    ("upsert", (150, 20)), ("reopen", (0, 1)), ("upsert", (3, 5)), ("delete", (0, 90)), ("compact", (0, 1)),
]  # fmt: skip
"""All that can happen, once."""


@pytest.mark.parametrize("seed", range(3))
def test_a_crash_in_a_life_in_which_everything_happens(seed: int) -> None:
    assert crash_everywhere(LIFE, seed, 0.05) > 10


@pytest.mark.slow
def test_a_crash_of_both_kinds_at_every_single_write_of_that_life() -> None:
    assert crash_everywhere(LIFE, 0, 1.0) > 500
