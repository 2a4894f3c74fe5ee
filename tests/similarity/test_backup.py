"""Backup and restore: whole or not at all, what was acknowledged at one moment, and only what is sound."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from deployments.runtime.errors import InvalidInput, NotFound
from deployments.similarity.embedded.backup import backup, backups, restore
from deployments.similarity.embedded.backup_places import BackupPlace, DirectoryPlace, ObjectPlace, open_place
from deployments.similarity.embedded.verify import verify
from deployments.similarity.errors import IndexDamaged
from tests.similarity.embedded_world import check, contents, execute, filled, flip, items, opened


def places() -> list[object]:
    def local(path: Path) -> BackupPlace:
        path.mkdir()
        return ObjectPlace(LocalStore(path))

    made: dict[str, Callable[[Path], BackupPlace]] = {
        "directory": DirectoryPlace,
        "memory": lambda path: ObjectPlace(MemoryStore()),
        "local": local,
    }
    return [pytest.param(make, id=name) for name, make in made.items()]


@pytest.mark.parametrize("make", places())
def test_there_and_back(tmp_path: Path, make: Callable[[Path], BackupPlace]) -> None:
    model = filled(tmp_path / "index", frames=True)
    place = make(tmp_path / "place")
    with closing(opened(tmp_path / "index")) as index:
        shares: list[float] = []
        made = backup(index, place, progress=shares.append)
        assert shares[-1] == 1.0
        assert shares == sorted(shares)
    assert made.items == len(model)
    assert made.sent_bytes == made.bytes
    assert [info.name for info in backups(place)] == [made.name]
    assert restore(place, tmp_path / "back").name == made.name
    assert verify(tmp_path / "back").sound
    with closing(opened(tmp_path / "back")) as index:
        assert not index.repaired
        check(index, model)
        index.upsert(items([1000]))
        check(index, {**model, "id-1000": 1000})
    assert not list((tmp_path / "index" / "segments").glob(".*"))


def test_only_what_is_not_there_yet_is_sent(tmp_path: Path) -> None:
    filled(tmp_path / "index")
    place = DirectoryPlace(tmp_path / "place")
    with closing(opened(tmp_path / "index")) as index:
        first = backup(index, place)
        second = backup(index, place)
    rows = (tmp_path / "place" / "rows" / f"{second.name}.db").stat().st_size
    assert second.sent_bytes == rows < first.sent_bytes


def test_a_backup_under_writes_is_of_one_moment(tmp_path: Path) -> None:
    done = threading.Event()
    place = DirectoryPlace(tmp_path / "place")
    with closing(opened(tmp_path / "index", maintain=True)) as index:

        def write() -> None:
            number = 0
            while not done.is_set():
                index.upsert(items(range(number, number + 7)))  # seven at a time, or none of them
                number += 7

        writer = threading.Thread(target=write)
        writer.start()
        try:
            made = [backup(index, place, keep=2) for _ in range(4)]
        finally:
            done.set()
            writer.join()
    assert [info.name for info in backups(place)] == [info.name for info in made[-2:]]
    for info in made[-2:]:
        restore(place, tmp_path / info.name, name=info.name)
        with closing(opened(tmp_path / info.name)) as index:
            held = contents(index)
            assert len(held) == info.items
            assert sorted(held.values()) == list(range(len(held)))
            assert len(held) % 7 == 0
            check(index, held)


def test_older_ones_go_and_take_along_only_what_nobody_else_needs(tmp_path: Path) -> None:
    filled(tmp_path / "index")
    place = DirectoryPlace(tmp_path / "place")
    with closing(opened(tmp_path / "index")) as index:
        first = backup(index, place)
        index.upsert(items(range(500, 900)))
        index.upkeep.maintain()
        index.upkeep.retrain()
        model = contents(index)
        backup(index, place, keep=1)
    assert first.name not in {info.name for info in backups(place)}
    assert len(place.keys("rows")) == 1
    restore(place, tmp_path / "back")
    with closing(opened(tmp_path / "back")) as index:
        assert not index.repaired
        check(index, model)
    with pytest.raises(NotFound):
        restore(place, tmp_path / "other", name=first.name)


@pytest.mark.parametrize("put", range(5))
def test_an_interrupted_backup_is_none(tmp_path: Path, put: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = filled(tmp_path / "index")
    place = DirectoryPlace(tmp_path / "place")
    done: list[str] = []
    whole = DirectoryPlace.put

    def cut(self: DirectoryPlace, key: str, path: Path) -> None:
        if len(done) == put or key.startswith("backups/"):
            raise KeyboardInterrupt
        done.append(key)
        whole(self, key, path)

    with closing(opened(tmp_path / "index")) as index:
        monkeypatch.setattr(DirectoryPlace, "put", cut)
        with pytest.raises(KeyboardInterrupt):
            backup(index, place)
        monkeypatch.setattr(DirectoryPlace, "put", whole)
        assert backups(place) == []
        with pytest.raises(NotFound):
            restore(place, tmp_path / "back")
        assert not (tmp_path / "back").exists()
        backup(index, place, keep=1)
    restore(place, tmp_path / "back")
    with closing(opened(tmp_path / "back")) as index:
        check(index, model)


def test_damage_to_a_backup_is_found_before_anything_is_restored(tmp_path: Path) -> None:
    model = filled(tmp_path / "index")
    place = DirectoryPlace(tmp_path / "place")
    with closing(opened(tmp_path / "index")) as index:
        made = backup(index, place)
    rows = tmp_path / "place" / "rows" / f"{made.name}.db"
    segment = tmp_path / "place" / next(key for key in place.keys("segments") if key.endswith("rows.npy"))
    flip(segment, segment.stat().st_size - 1)
    restored = restore(place, tmp_path / "without")
    assert restored.skipped == (segment.parent.name,)
    with closing(opened(tmp_path / "without")) as index:
        check(index, model)
    for harm in (lambda: flip(rows, rows.stat().st_size // 2), lambda: rows.write_bytes(b""), rows.unlink):
        harm()
        with pytest.raises(IndexDamaged):
            restore(place, tmp_path / "back")
        assert not (tmp_path / "back").exists()
    manifest = tmp_path / "place" / "backups" / f"{made.name}.json"
    flip(manifest, manifest.stat().st_size // 2, 1)
    assert backups(place) == []
    with pytest.raises(IndexDamaged):
        restore(place, tmp_path / "back")
    assert {path.name for path in tmp_path.iterdir()} == {"index", "place", "without"}


def test_damaged_rows_are_not_backed_up(tmp_path: Path) -> None:
    filled(tmp_path / "index")
    with closing(opened(tmp_path / "index")) as index:
        execute(tmp_path / "index", "UPDATE rows SET vector = zeroblob(64) WHERE id = 'id-7'")
        with pytest.raises(IndexDamaged):
            backup(index, str(tmp_path / "place"))
        assert backups(str(tmp_path / "place")) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    filled(tmp_path / "index")
    with closing(opened(tmp_path / "index")) as index:
        backup(index, str(tmp_path / "place"))
        with pytest.raises(InvalidInput):
            backup(index, str(tmp_path / "place"), keep=0)
    with pytest.raises(InvalidInput):
        restore(str(tmp_path / "place"), tmp_path / "index")
    (tmp_path / "empty").mkdir()
    restore(str(tmp_path / "place"), tmp_path / "empty")


def test_places_are_directories_or_urls(tmp_path: Path) -> None:
    assert isinstance(open_place(str(tmp_path)), DirectoryPlace)
    assert isinstance(open_place(tmp_path.as_uri()), DirectoryPlace)
    assert isinstance(open_place("s3://bucket/prefix"), ObjectPlace)
    for url in ("ftp://host/x", "s3://", "file://elsewhere/x"):
        with pytest.raises(InvalidInput):
            open_place(url)
