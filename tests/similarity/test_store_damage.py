"""A flipped byte anywhere, a cut or missing file: found, repaired or refused; never silently wrong."""

from __future__ import annotations

import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from deployments.runtime.errors import ParakhError
from deployments.similarity.embedded.verify import verify
from deployments.similarity.errors import IndexDamaged
from tests.similarity.embedded_world import check, contents, copy, filled, flip, items, opened

FILES = ("rows.db", "rows.db-wal", "high-water", "segment")
Model = dict[str, int]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """What a killed process left: rows in the database, others still in its log, segments, tombstones, frames."""
    root = tmp_path_factory.mktemp("damage")
    filled(root / "live", 300, frames=True)
    with closing(opened(root / "live")) as index:
        index.store.checkpoint()
        for start in range(500, 600, 10):
            index.upsert(items(range(start, start + 10), frames=True))
        index.delete(["id-7", "id-501"])
        model = contents(index)
        return copy(root / "live", root / "crashed"), model


def harmed(crashed: Path, to: Path, name: str, chance: random.Random) -> tuple[Path, Path]:
    """(a copy of the index, the file in it that is to be harmed)."""
    directory = copy(crashed, to)
    if name == "segment":
        return directory, chance.choice(sorted(path for path in (directory / "segments").rglob("*") if path.is_file()))
    return directory, directory / name


def survived(directory: Path, model: Model) -> str:
    """What came of the damage; fails where it is silently wrong."""
    try:
        with closing(opened(directory)) as index:
            if not verify(index).ok:
                outcome = "found"
            else:
                check(index, model)
                outcome = "repaired" if index.repaired else "harmless"
    except ParakhError:
        outcome = "refused"
    if outcome in ("refused", "found"):
        give_up(directory, model)
    return outcome


def give_up(directory: Path, model: Model) -> None:
    """With consent to loss it serves again, or is refused still; what is gone is told."""
    try:
        report = verify(directory, accept_loss=True)
        with closing(opened(directory)) as index:
            held = contents(index)
            check(index, held)
            untold = {id_ for id_ in set(held) ^ set(model) if id_ not in report.lost_ids}
            assert not untold or report.lost_commits or report.of("pages") or report.of("mark"), (untold, report)
    except IndexDamaged:
        return


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_never_silently_wrong(crashed: tuple[Path, Model], tmp_path: Path, name: str) -> None:
    chance = random.Random(name)
    outcomes = []
    for _ in range(25):
        directory, path = harmed(crashed[0], tmp_path / "harmed", name, chance)
        flip(path, chance.randrange(path.stat().st_size), 1 << chance.randrange(8))
        outcomes.append(survived(directory, crashed[1]))
    print(name, {outcome: outcomes.count(outcome) for outcome in set(outcomes)})


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_are_never_silently_wrong(crashed: tuple[Path, Model], tmp_path: Path, name: str) -> None:
    chance = random.Random(name + "slow")
    for _ in range(120):
        directory, path = harmed(crashed[0], tmp_path / "harmed", name, chance)
        for _ in range(chance.choice((1, 1, 2, 50))):
            flip(path, chance.randrange(path.stat().st_size), chance.randrange(1, 256))
        survived(directory, crashed[1])


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_never_silently_wrong(crashed: tuple[Path, Model], tmp_path: Path, name: str) -> None:
    chance = random.Random(name)
    for share in (0.0, 0.3, 0.9, 0.999):
        directory, path = harmed(crashed[0], tmp_path / "harmed", name, chance)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        survived(directory, crashed[1])


@pytest.mark.parametrize("name", [*FILES, "segments"])
def test_a_missing_file_is_never_silently_wrong(crashed: tuple[Path, Model], tmp_path: Path, name: str) -> None:
    directory, path = harmed(crashed[0], tmp_path / "harmed", name, random.Random(name))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    outcome = survived(directory, crashed[1])
    assert outcome == ("repaired" if name.startswith("segment") else "refused")


def test_a_cut_log_is_refused_and_left_as_it_lies(crashed: tuple[Path, Model], tmp_path: Path) -> None:
    """SQLite itself takes a damaged frame for the log's end, and would throw away the rest on closing."""
    directory = copy(crashed[0], tmp_path / "harmed")
    log = directory / "rows.db-wal"
    flip(log, 32 + 24 + 100)
    before = {path.name: path.read_bytes() for path in (log, directory / "rows.db", directory / "high-water")}
    with pytest.raises(IndexDamaged, match="commits are missing"):
        opened(directory)
    assert {name: (directory / name).read_bytes() for name in before} == before
    with pytest.raises(IndexDamaged, match="commits are missing"):
        opened(directory)
    report = verify(directory, accept_loss=True)
    assert report.lost_commits == 12 or report.lost_commits == 11
    with closing(opened(directory)) as index:
        held = contents(index)
        check(index, held)
        assert 0 < len(held) < len(crashed[1])
        seq = index.store.mark.last_seq
        index.upsert(items([5000]))
        assert index.store.by_ids(["id-5000"])["id-5000"].seq > seq >= len(crashed[1])


def test_without_its_log_and_mark_together_it_is_still_refused(crashed: tuple[Path, Model], tmp_path: Path) -> None:
    directory = copy(crashed[0], tmp_path / "harmed")
    (directory / "rows.db-wal").unlink()
    (directory / "high-water").write_bytes(bytes(8192))
    with pytest.raises(IndexDamaged, match="mark is lost"):
        opened(directory)


def test_an_emptied_database_is_not_taken_for_a_new_one(crashed: tuple[Path, Model], tmp_path: Path) -> None:
    directory = copy(crashed[0], tmp_path / "harmed")
    (directory / "rows.db-wal").unlink()
    (directory / "rows.db").write_bytes(b"")
    with pytest.raises(IndexDamaged):
        opened(directory)
    assert (directory / "rows.db").stat().st_size == 0
