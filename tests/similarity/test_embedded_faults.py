"""When the disk is full, a step fails or the index closes: nothing half done, nothing stuck, and it goes on after."""

from __future__ import annotations

import contextlib
import errno
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from deployments.similarity.embedded import index as embedded
from deployments.similarity.embedded import upkeep
from deployments.similarity.embedded.high_water import HighWater
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.embedded.segment import SegmentFiles
from deployments.similarity.embedded.store import RowStore
from deployments.similarity.embedded.verify import verify
from deployments.similarity.errors import IndexClosed, IndexUnwritable
from deployments.similarity.values import Item
from tests.similarity.embedded_world import BUSY, check, contents, items, opened


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def wait_until(true: object, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_write_that_finds_no_room_changes_nothing_and_the_next_succeeds(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as index:
        index.upsert(items(range(50)))
        model = contents(index)
        size = (tmp_path / "rows.db-wal").stat().st_size
        with files_no_larger_than(size + 4096):
            for _ in range(2):
                with pytest.raises(IndexUnwritable):
                    index.upsert(items(range(100, 400)))
            with pytest.raises(IndexUnwritable):
                index.delete(list(model))
            check(index, model)
        index.upsert(items(range(100, 150)))
        model |= {f"id-{number}": number for number in range(100, 150)}
        check(index, model)
    with closing(opened(tmp_path)) as index:
        check(index, model)


def test_a_full_database_is_the_same(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as index:
        index.upsert(items(range(50)))
        model = contents(index)
        writer = index.store._writer
        (pages,) = writer.execute("PRAGMA page_count").fetchone()
        writer.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(IndexUnwritable):
            index.upsert(items(range(100, 900)))
        check(index, model)
        writer.execute("PRAGMA max_page_count = 1000000")
        index.upsert(items([100]))
        check(index, {**model, "id-100": 100})


def test_what_the_disk_may_or_may_not_have_taken_ends_all_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(tmp_path)) as index:
        index.upsert(items(range(50)))
        model = contents(index)
        with monkeypatch.context() as patch:
            patch.setattr(HighWater, "write", no_room)
            with pytest.raises(OSError, match="No space"):
                index.upsert(items([100]))
        with pytest.raises(IndexClosed):
            index.upsert(items([101]))
        assert index.stats().details["errors"]
        assert index.search([items([1])[0].vector], 1)[0].ids == ("id-1",)
    with closing(opened(tmp_path)) as index:
        check(index, {**model, "id-100": 100})  # not acknowledged, and whole


def test_upkeep_without_room_recovers_and_leaves_no_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_ERROR_PAUSE_S", 0.02)
    monkeypatch.setattr(embedded, "MAX_SEALED_BUFFERS", 3)
    with closing(opened(tmp_path, maintain=True)) as index:
        written = 0
        with monkeypatch.context() as patch:
            patch.setattr(SegmentFiles, "_write_files", no_room)
            with contextlib.suppress(IndexUnwritable):
                for written in range(0, 100_000, 64):
                    index.upsert(items(range(written, written + 64)))
            assert written < 99_000
            wait_until(lambda: index.stats().details["errors"])
            check(index, {f"id-{number}": number for number in range(written)})
        wait_until(lambda: not index.stats().details["errors"] and not index.view.sealed)
        index.upsert(items(range(written, written + 500)))
        model = {f"id-{number}": number for number in range(written + 500)}
        check(index, model)
        index.upkeep.snapshot()
        assert verify(index).sound
    with closing(opened(tmp_path)) as index:
        assert not index.repaired
        check(index, model)


@pytest.mark.parametrize("step", ["snapshot", "freeze", "retrain"])
def test_a_step_that_cannot_be_named_leaves_no_files(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(tmp_path)) as index:
        index.upsert(items(range(300)))
        index.upkeep.maintain()
        index.upsert(items(range(300, 400)))
        index.upkeep.gather()
        before = {path.name for path in (tmp_path / "segments").iterdir()}
        with monkeypatch.context() as patch:
            patch.setattr(RowStore, "publish", no_room)
            for _ in range(3):
                with pytest.raises(OSError, match="No space"):
                    getattr(index.upkeep, step)()
        assert {path.name for path in (tmp_path / "segments").iterdir()} == before
        model = {f"id-{number}": number for number in range(400)}
        check(index, model)
        getattr(index.upkeep, step)()
        check(index, model)
        assert verify(index).sound


def test_of_operations_committed_together_one_failure_is_its_own(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as index:
        gate, waiting = threading.Event(), threading.Event()

        def hold() -> None:
            waiting.set()
            gate.wait()

        def fail() -> None:
            raise ValueError("its own")

        threads = [threading.Thread(target=index.between_writes, args=(hold,))]
        threads[0].start()
        waiting.wait()
        failed: list[BaseException] = []

        def failing() -> None:
            try:
                index.between_writes(fail)
            except ValueError as error:
                failed.append(error)

        threads += [threading.Thread(target=index.upsert, args=(items([n]),)) for n in range(5)]
        threads += [threading.Thread(target=failing)]
        for thread in threads[1:]:
            thread.start()
        time.sleep(0.1)
        gate.set()
        for thread in threads:
            thread.join()
        assert len(failed) == 1
        check(index, {f"id-{number}": number for number in range(5)})


def test_buffers_larger_than_what_is_gathered_are_taken_on(tmp_path: Path) -> None:
    settings = BUSY.model_copy(update={"buffer_bytes": 1 << 20})
    with closing(opened(tmp_path, settings=settings)) as index:
        index.upsert(items(range(5000)))
        gathering = threading.Thread(target=index.upkeep.gather, daemon=True)
        gathering.start()
        gathering.join(30)
        assert not gathering.is_alive()


def test_the_dead_of_a_snapshot_stay_dead_when_what_was_gathered_is_indexed_anew(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as index:
        index.upsert(items(range(300)))
        index.upkeep.maintain()
        index.upsert(items(range(300, 400)))
        index.upkeep.snapshot()
        index.delete([f"id-{number}" for number in range(256, 330)])
        index.upkeep._regather()
        index.delete([f"id-{number}" for number in range(200)])
        while index.upkeep.compact():
            pass
        index.upsert(items(range(400, 500)))
        index.upkeep.snapshot()
        index.upsert(items([500]))
        index.upkeep.snapshot()
        model = contents(index)
        check(index, model)
        assert verify(index).sound
    with closing(opened(tmp_path)) as index:
        assert not index.repaired
        check(index, model)


@pytest.mark.parametrize("broken", ["batches", "indexing"])
def test_a_load_that_breaks_keeps_what_is_durable_once(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches() -> Iterator[list[Item]]:
        yield items(range(100, 300))
        yield items(range(300, 500))
        if broken == "batches":
            raise RuntimeError("the source went away")
        monkeypatch.setattr(SegmentFiles, "_write_files", no_room)

    with closing(opened(tmp_path, maintain=True)) as index:
        index.upsert(items(range(100)))
        with pytest.raises((RuntimeError, OSError)):
            index.load(batches())
        monkeypatch.undo()
        model = {f"id-{number}": number for number in range(500)}
        check(index, model)
        index.delete(["id-150", "id-20"])
        del model["id-150"], model["id-20"]
        check(index, model)
        index.upkeep.snapshot()
        check(index, model)
        assert verify(index).sound
    with closing(opened(tmp_path)) as index:
        assert not index.repaired
        check(index, model)


def test_closing_ends_a_load_and_what_it_wrote_is_there(tmp_path: Path) -> None:
    index = opened(tmp_path, maintain=True)
    errors: list[BaseException] = []
    begun = threading.Event()

    def batches() -> Iterator[list[Item]]:
        for start in range(0, 1_000_000, 50):
            yield items(range(start, start + 50))
            begun.set()

    def load() -> None:
        try:
            index.load(batches())
        except IndexClosed as error:
            errors.append(error)

    loading = threading.Thread(target=load)
    loading.start()
    begun.wait(10)
    close_within(index, 20)
    loading.join(20)
    assert errors
    with closing(opened(tmp_path)) as index:
        held = contents(index)
        assert len(held) >= 50
        assert len(held) % 50 == 0
        check(index, held)


def test_closing_ends_a_merge_and_those_who_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "MAX_SEALED_BUFFERS", 2)
    slow = SegmentFiles._write_files

    def slowly(*args: object, **kwargs: object) -> dict[str, str]:
        time.sleep(0.2)
        return slow(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentFiles, "_write_files", slowly)
    index = opened(tmp_path, maintain=True)
    acknowledged: list[int] = []

    def write(first: int) -> None:
        number = first
        try:
            while True:
                index.upsert(items(range(number, number + 20)))
                acknowledged.extend(range(number, number + 20))
                number += 20
        except IndexClosed:
            return

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 100_000, 200_000)]
    for writer in writers:
        writer.start()
    time.sleep(1.0)
    close_within(index, 20)
    for writer in writers:
        writer.join(10)
        assert not writer.is_alive()
    for call in (lambda: index.get(["id-1"]), lambda: index.scan(), lambda: index.delete(["id-1"])):
        with pytest.raises(IndexClosed):
            call()
    index.close()
    with closing(opened(tmp_path)) as index:
        check(index, {f"id-{number}": number for number in acknowledged})


def close_within(index: EmbeddedIndex, seconds: float) -> None:
    closing_thread = threading.Thread(target=index.close)
    closing_thread.start()
    closing_thread.join(seconds)
    assert not closing_thread.is_alive()
