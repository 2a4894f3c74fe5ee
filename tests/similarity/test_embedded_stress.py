"""Everything at once: what is acknowledged is found at once, what is deleted is never seen, what is replaced stays."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.embedded.verify import verify
from deployments.similarity.settings import IndexSettings
from deployments.similarity.values import Filter
from tests.similarity.embedded_world import BUSY, NEAR, check, contents, item, items, opened, vector_of

STABLE = 20
SPAN = 10_000  # numbers of one writer


class Crowd:
    """Threads that run until the time is up or one fails; its error is raised here."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self.turns: dict[str, int] = {}

    def add(self, name: str, turn: Callable[[], None]) -> None:
        def run() -> None:
            try:
                while time.monotonic() < self._until and not self._errors:
                    turn()
                    self.turns[name] = self.turns.get(name, 0) + 1
            except BaseException as error:  # noqa: BLE001  # whatever it is, the test fails with it
                self._errors.append(error)

        self._threads.append(threading.Thread(target=run, name=name))

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]


class Writer:
    """Adds, replaces and deletes ids of its own, and looks after each acknowledgement."""

    def __init__(self, index: EmbeddedIndex, number: int) -> None:
        self._index = index
        self._random = random.Random(number)
        self._base = number * SPAN
        self.held: dict[str, int] = {}

    def turn(self) -> None:
        choice = self._random.random()
        if choice < 0.6 or not self.held:
            numbers = [self._base + self._random.randrange(SPAN) for _ in range(self._random.choice((1, 3, 20)))]
            self._index.upsert(items(numbers))
            self.held |= {f"id-{number}": number for number in numbers}
            self._find(numbers[-1], f"id-{numbers[-1]}")
        elif choice < 0.8:
            id_ = self._random.choice(list(self.held))
            number = self._base + self._random.randrange(SPAN)
            old = self.held[id_]
            self._index.upsert([item(id_, number)])
            self.held[id_] = number
            self._find(number, id_)
            if old != number:
                assert id_ not in self._exactly(old)
        else:
            ids = self._random.sample(list(self.held), min(len(self.held), self._random.choice((1, 5))))
            assert self._index.delete(ids) == len(ids)
            for id_ in ids:
                assert id_ not in self._exactly(self.held.pop(id_))

    def _find(self, number: int, id_: str) -> None:
        assert id_ in self._exactly(number)

    def _exactly(self, number: int) -> list[str]:
        (found,) = self._index.search([vector_of(number)], 30, threshold=NEAR)
        return list(found.ids)


def stress(directory: Path, seconds: float, settings: IndexSettings) -> None:
    with closing(opened(directory, settings=settings, maintain=True)) as index:
        stable = items(range(90_000, 90_000 + STABLE))
        index.upsert(stable)
        crowd = Crowd(seconds)
        writers = [Writer(index, number) for number in range(2)]
        for number, writer in enumerate(writers):
            crowd.add(f"writer {number}", writer.turn)

        def replace() -> None:
            """The same vectors under new rows: in no search may one be missing."""
            index.upsert(stable)

        def look() -> None:
            picked = random.sample(stable, 3)
            found = index.search([one.vector for one in picked], 1, threshold=NEAR)
            assert [list(one.ids) for one in found] == [[one.id] for one in picked]
            narrow = Filter(languages=frozenset({picked[0].language}))
            (only,) = index.search([picked[0].vector], 1, filter=narrow, threshold=NEAR)
            assert only.ids == (picked[0].id,)
            got = index.get([one.id for one in picked])
            assert set(got) == {one.id for one in picked}

        def other() -> None:
            random.choice((index.stats, index.upkeep.snapshot, lambda: index.scan("", 10)))()
            assert index.count() >= STABLE
            time.sleep(0.05)

        crowd.add("replace", replace)
        crowd.add("look", look)
        crowd.add("other", other)
        crowd.run()
        model = {one.id: int(one.attributes["number"]) for one in stable}
        for writer in writers:
            model |= writer.held
        held = contents(index)
        assert held == model
        check(index, held)
        assert not index.stats().details["errors"]
        assert verify(index).sound
        assert crowd.turns["look"] > 10
    with closing(opened(directory, settings=settings)) as index:
        assert not index.repaired
        check(index, held)


@pytest.mark.parametrize("index_type", ["IVF_FLAT", "FLAT"])
def test_a_crowd_finds_what_is_there(tmp_path: Path, index_type: str) -> None:
    stress(tmp_path, 5, BUSY.model_copy(update={"index_type": index_type}))


@pytest.mark.slow
@pytest.mark.parametrize("index_type", ["IVF_FLAT", "IVF_SQ8", "FLAT"])
def test_a_crowd_finds_what_is_there_for_longer(tmp_path: Path, index_type: str) -> None:
    stress(tmp_path, 12, BUSY.model_copy(update={"index_type": index_type}))


def test_bulk_loads_among_writers_count_no_row_twice(tmp_path: Path) -> None:
    """Writers go on while others load: in the end each row is there once, dead ones are dead, and a restart agrees."""
    held: dict[str, int] = {}
    with closing(opened(tmp_path, maintain=True)) as index:
        crowd = Crowd(4)
        numbers = iter(range(1_000_000))

        def write() -> None:
            some = [next(numbers) for _ in range(5)]
            index.upsert(items(some))
            held.update({f"id-{number}": number for number in some})
            victim = random.choice(list(held))
            index.delete([victim])
            del held[victim]

        def bulk() -> None:
            start = random.randrange(100_000, 200_000)
            batch = items(range(start, start + 90))
            index.load([batch[:40], batch[40:]])
            loaded.update({one.id: int(one.attributes["number"]) for one in batch})

        loaded: dict[str, int] = {}
        crowd.add("write", write)
        crowd.add("load", bulk)
        crowd.run()
        assert crowd.turns["load"] > 1
        check(index, held | loaded)
        index.upkeep.snapshot()
        assert verify(index).sound
    with closing(opened(tmp_path)) as index:
        assert not index.repaired
        check(index, held | loaded)
