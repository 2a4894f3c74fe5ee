"""Models that share one memory budget: what is in use stays, what is not leaves oldest first, nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deployments.runtime.errors import DeadlineExceeded, MissingWeights, ModelError
from deployments.wav2vec2.resident import Lease, ResidentModels

SIZES = {"a": 4, "b": 3, "c": 2, "d": 1, "huge": 11}
BUDGET = 10


class World:
    """A budget of 10 over models of known sizes, which counts loads."""

    def __init__(self, slow_s: float = 0.0, patience_s: float = 2.0) -> None:
        self.loads: list[str] = []
        self.unloaded: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.slow_s = slow_s
        self.models = ResidentModels(
            BUDGET, SIZES.__getitem__, self._load, unload=self.unloaded.append, patience_s=patience_s
        )

    def _load(self, key: str) -> str:
        self.loads.append(key)
        time.sleep(self.slow_s)
        if key in self.failing:
            raise self.failing[key]
        return f"model {key}"


@contextmanager
def sized(key: str, size: int) -> Iterator[None]:
    """One more model, for a while."""
    SIZES[key] = size
    try:
        yield
    finally:
        del SIZES[key]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited for 5 s"
        time.sleep(0.001)


def test_a_model_is_loaded_once_and_stays() -> None:
    world = World()
    for _ in range(3):
        with world.models.use("a") as model:
            assert model == "model a"
    assert world.loads == ["a"]


def test_the_least_recently_used_leaves_first() -> None:
    world = World()
    for key in ("a", "b", "c", "a", "d"):  # 4 + 3 + 2 + 1 = 10
        world.models.use(key).release()
    world.models.use("b").release()
    assert world.models.state().keys == ("c", "a", "d", "b")
    with sized("e", 3):
        world.models.use("e").release()
    assert world.models.state().keys == ("d", "b", "e")
    assert world.unloaded == ["model c", "model a"]


def test_a_model_in_use_never_leaves_and_a_newcomer_waits_for_it() -> None:
    world = World()
    held = [world.models.use("a"), world.models.use("b")]  # 7 of 10
    with sized("wide", 5), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.models.use, "wide")
        time.sleep(0.05)
        assert not waiting.done()
        assert world.models.state().keys == ("a", "b")
        held[0].release()
        assert waiting.result(5).model == "model wide"
        assert world.models.state().keys == ("b", "wide")


def test_a_model_larger_than_the_budget_is_refused_plainly_and_evicts_nobody() -> None:
    world = World()
    world.models.use("a").release()
    with pytest.raises(ModelError, match=r"huge: the model needs 11 bytes.*10.*cache_bytes"):
        world.models.use("huge")
    assert world.models.state().keys == ("a",)


def test_waiting_for_room_ends_at_the_deadline() -> None:
    world = World()
    with sized("wide", 8), world.models.use("a"), world.models.use("b"), pytest.raises(DeadlineExceeded):
        world.models.use("wide", timeout_s=0.02)
    assert world.models.state().pinned == ()


def test_many_at_once_load_one_language_once() -> None:
    world = World(slow_s=0.05)
    with ThreadPoolExecutor(16) as pool:
        leases = list(pool.map(world.models.use, ["a"] * 16))
    assert world.loads == ["a"]
    assert {lease.model for lease in leases} == {"model a"}
    for lease in leases:
        lease.release()
    assert world.models.state().pinned == ()


def test_a_failed_load_is_told_to_those_who_waited_for_it_and_to_nobody_else() -> None:
    world = World(slow_s=0.05)
    world.models.use("d").release()
    world.failing["a"] = MissingWeights("no file a")
    with ThreadPoolExecutor(8) as pool:
        failing = [pool.submit(world.models.use, "a") for _ in range(4)]
        fine = [pool.submit(world.models.use, "b") for _ in range(4)]
        assert all(isinstance(future.exception(), MissingWeights) for future in failing)
        assert all(future.result().model == "model b" for future in fine)
    assert set(world.models.state().keys) == {"d", "b"}
    del world.failing["a"]
    assert world.models.use("a").model == "model a"  # the next caller tries again


def test_a_load_that_fails_for_want_of_a_whole_file_leaves_its_room_free() -> None:
    world = World()
    world.failing["a"] = MissingWeights()
    with pytest.raises(MissingWeights):
        world.models.use("a")
    assert world.models.state().bytes == 0


def test_a_lease_released_twice_counts_once_and_holds_the_model_no_longer() -> None:
    world = World()
    first, second = world.models.use("a"), world.models.use("a")
    first.release()
    first.release()
    assert world.models.state().pinned == ("a",)
    with pytest.raises(RuntimeError):
        _ = first.model
    second.release()
    assert world.models.state().pinned == ()


def test_use_resident_never_loads_and_never_blocks() -> None:
    world = World()
    assert world.models.use_resident("a") is None
    world.models.use("a").release()
    lease = world.models.use_resident("a")
    assert lease is not None
    lease.release()
    assert world.loads == ["a"]


def test_a_busy_language_cannot_keep_a_rare_one_out_for_ever() -> None:
    """Some of the crowd holds `a` at nearly every moment; `wide` fits only without it."""
    world = World(patience_s=0.05)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            with world.models.use("a"):
                time.sleep(0.005)

    with sized("wide", 8), ThreadPoolExecutor(7) as pool:
        crowd = [pool.submit(busy) for _ in range(6)]
        try:
            wait_for(lambda: bool(world.models.state().pinned))
            for _ in range(3):
                world.models.use("wide", timeout_s=5).release()
        finally:
            stop.set()
        assert [task.result(10) for task in crowd] == [None] * 6


def test_the_impatient_go_before_those_who_came_later() -> None:
    world = World(patience_s=0.03)

    def must_wait() -> bool:
        lease = world.models.use_resident("a")
        if lease is not None:
            lease.release()
        return lease is None

    with sized("wide", 8), ThreadPoolExecutor(2) as pool:
        held = world.models.use("a")
        rare = pool.submit(world.models.use, "wide")
        wait_for(must_wait)
        late = pool.submit(world.models.use, "a")  # in memory, but somebody has waited too long
        time.sleep(0.02)
        assert not late.done()
        pinned = world.models.pin("a")  # one who has a lease already never waits
        assert pinned is not None
        pinned.release()
        held.release()
        rare.result(5).release()
        assert late.result(5).model == "model a"
    assert world.loads == ["a", "wide", "a"]


def test_under_stress_the_budget_holds_and_nobody_sees_a_model_leave() -> None:
    """Eight threads, five models that never fit together; each checks the sum of what it knows to be in memory."""
    world = World(slow_s=0.0005, patience_s=0.01)
    alive: dict[str, int] = {}
    lock = threading.Lock()
    errors: list[str] = []

    def work(seed: int) -> None:
        keys = ["a", "b", "c", "d", "c", "b", "a"]
        for turn in range(120):
            key = keys[(turn * (seed + 1) + seed) % len(keys)]
            with world.models.use(key, timeout_s=20) as model:
                with lock:
                    alive[key] = alive.get(key, 0) + 1
                    if sum(SIZES[name] for name, users in alive.items() if users) > BUDGET:
                        errors.append(f"{alive}")
                state = world.models.state()
                if state.bytes > BUDGET or key not in state.keys or model != f"model {key}":
                    errors.append(f"{key}: {state}")
                with lock:
                    alive[key] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert errors == []
    assert world.models.state().pinned == ()


class Table(RuleBasedStateMachine):
    """Any order of leases and releases, in one thread: a call that would wait is given no time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.held: list[tuple[str, Lease[str]]] = []

    @rule(key=st.sampled_from(["a", "b", "c", "d"]))
    def use(self, key: str) -> None:
        pinned = {name for name, _ in self.held}
        fits = sum(SIZES[name] for name in pinned | {key}) <= BUDGET
        try:
            self.held.append((key, self.world.models.use(key, timeout_s=0)))
        except DeadlineExceeded:
            assert not fits
        else:
            assert fits

    @rule(key=st.sampled_from(["a", "b", "c", "d"]))
    def use_resident(self, key: str) -> None:
        there = key in self.world.models.state().keys
        lease = self.world.models.use_resident(key)
        assert (lease is not None) == there
        if lease is not None:
            self.held.append((key, lease))

    @rule(key=st.sampled_from(["a", "b", "c", "d"]))
    def fail(self, key: str) -> None:
        before = self.world.models.state().keys
        if key in before:
            return
        self.world.failing[key] = ValueError(key)
        with pytest.raises((ValueError, DeadlineExceeded)):
            self.world.models.use(key, timeout_s=0)
        del self.world.failing[key]

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.held) - 1))
        self.held.pop(at)[1].release()

    @invariant()
    def consistent(self) -> None:
        state = self.world.models.state()
        assert state.bytes == sum(SIZES[key] for key in state.keys) <= BUDGET
        assert set(state.pinned) == {key for key, _ in self.held}
        assert all(lease.model == f"model {key}" for key, lease in self.held)


Table.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestTable = Table.TestCase


@given(order=st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=40))
def test_what_is_in_memory_is_the_most_recent_that_fit(order: list[str]) -> None:
    world = World()
    for key in order:
        world.models.use(key).release()
    keys = world.models.state().keys
    assert list(keys) == sorted(keys, key=lambda key: len(order) - order[::-1].index(key))
