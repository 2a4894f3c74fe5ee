"""kill -9 at any moment of a busy process, round after round: what was acknowledged is there, nothing comes back."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from deployments.similarity.embedded.verify import verify
from tests.similarity.embedded_world import check, contents, opened
from tests.similarity.kill_child import live

THREADS = 3


class Told:
    """What the child acknowledged, and what it was at when it died."""

    def __init__(self, model: dict[str, int]) -> None:
        self.model = model
        self.acknowledged = 0
        self.wrong: list[str] = []
        self.opened = threading.Event()
        self._under_way: dict[str, dict[str, int | None]] = {}

    def hear(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        thread, _, what = rest.partition(" ")
        if word == "open":
            self.opened.set()
        elif word == "begin":
            ((kind, items),) = json.loads(what).items()
            self._under_way[thread] = dict(items) if kind == "upsert" else dict.fromkeys(items)
        elif word == "done":
            self.acknowledged += 1
            for id_, number in self._under_way.pop(thread).items():
                if number is None:
                    self.model.pop(id_, None)
                else:
                    self.model[id_] = number
        else:
            self.wrong.append(line)

    def unsure(self) -> dict[str, set[int | None]]:
        """Of ids in operations that were not acknowledged: the states they may be in."""
        return {id_: {self.model.get(id_), number} for ids in self._under_way.values() for id_, number in ids.items()}

    def settle(self, held: dict[str, int]) -> None:
        """Each operation that was not acknowledged happened as a whole, or not at all."""
        for ids in self._under_way.values():
            changed = {id_: number for id_, number in ids.items() if self.model.get(id_) != number}
            assert sum(held.get(id_) == number for id_, number in changed.items()) in (0, len(changed))


def context() -> ForkServerContext:
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["tests.similarity.kill_child"])
    return forks


@contextlib.contextmanager
def child(directory: Path, told: Told, seed: int) -> Iterator[int]:
    reading, writing = os.pipe()
    receiver, sender = multiprocessing.Pipe()
    process = context().Process(target=_run, args=(str(directory), receiver, seed))
    process.start()
    multiprocessing.reduction.send_handle(sender, writing, process.pid)
    os.close(writing)

    def hear() -> None:
        with os.fdopen(reading) as lines:
            for line in lines:
                if line.endswith("\n"):
                    told.hear(line.strip())

    hearing = threading.Thread(target=hear)
    hearing.start()
    try:
        assert told.opened.wait(30)
        assert process.pid is not None
        yield process.pid
    finally:
        process.kill()
        process.join()
        hearing.join()


def _run(directory: str, receiver: object, seed: int) -> None:
    pipe = multiprocessing.reduction.recv_handle(receiver)  # type: ignore[arg-type]
    live(directory, pipe, THREADS, seed)


def rounds(directory: Path, seconds: float, seed: int) -> None:
    chance = random.Random(seed)
    until = time.monotonic() + seconds
    model: dict[str, int] = {}
    acknowledged = survived = 0
    while time.monotonic() < until:
        told = Told(model)
        with child(directory, told, chance.randrange(1 << 30)):
            time.sleep(chance.uniform(0.0, 1.2))
        assert not told.wrong, told.wrong
        with closing(opened(directory)) as index:
            assert not index.repaired
            check(index, told.model, unsure=told.unsure())
            model = contents(index)
            told.settle(model)
        if survived % 5 == 0:
            assert verify(directory).sound
        acknowledged, survived = acknowledged + told.acknowledged, survived + 1
    print(f"{survived} kills, {acknowledged} acknowledged operations")
    assert survived > 3
    assert acknowledged > 20


def test_nothing_acknowledged_is_lost_to_kill_9(tmp_path: Path) -> None:
    rounds(tmp_path / "index", 20, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 4))
def test_nothing_acknowledged_is_lost_to_kill_9_for_longer(tmp_path: Path, seed: int) -> None:
    rounds(tmp_path / "index", 30, seed)
