"""`verify`: all damage is found; what another copy proves is repaired; nothing is given up without consent."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from deployments.runtime.errors import ParakhError
from deployments.similarity.embedded.verify import verify
from deployments.similarity.errors import IndexDamaged
from tests.similarity.embedded_world import BUSY, check, contents, execute, filled, flip, item, items, opened

ROW = "id-101"  # in a segment
TAIL = "id-405"  # in none yet


def test_a_sound_index_is_sound_at_rest_and_while_it_serves(tmp_path: Path) -> None:
    model = filled(tmp_path, frames=True)
    report = verify(tmp_path)
    assert report.sound, report.findings
    assert report.rows == len(model)
    assert report.segments
    with closing(opened(tmp_path)) as index:
        shares: list[float] = []
        report = verify(index, progress=shares.append)
        assert report.sound, report.findings
        assert report.rows == len(model)
        assert shares == sorted(shares)
        assert shares[-1] == 1.0


@pytest.mark.parametrize(
    "change",
    [
        "vector = zeroblob(length(vector))",
        "vector = substr(vector, 1, 10)",
        "vector = 'text'",
        "id = 'another'",
        "created_at = 17.5",
        "created_at = 'text'",
        "language = 'xx'",
        "content_type = 'xx'",
        "checksum = x'0102030405060708'",
        "checksum = x'01'",
        "seq = 100000",
        "frames = x'0102030405060708'",
        "vector = 'text', checksum = 'text'",
    ],
)
@pytest.mark.parametrize("serving", [False, True], ids=["at rest", "serving"])
def test_a_damaged_row_comes_back_from_its_segment(tmp_path: Path, change: str, serving: bool) -> None:
    model = filled(tmp_path)
    if not serving:
        execute(tmp_path, f"UPDATE rows SET {change} WHERE id = ?", ROW)
        found = verify(tmp_path)
        assert not found.ok
        assert found.of("row"), found.findings
        report = verify(tmp_path, repair=True)
    else:
        with closing(opened(tmp_path)) as index:
            execute(tmp_path, f"UPDATE rows SET {change} WHERE id = ?", ROW)
            assert not verify(index).ok
            report = verify(index, repair=True)
            check(index, model)
    assert report.ok, report.findings
    assert not report.lost_ids
    assert verify(tmp_path).sound
    with closing(opened(tmp_path)) as index:
        check(index, model)


def test_a_row_beyond_repair_is_given_up_only_with_consent_and_named(tmp_path: Path) -> None:
    model = filled(tmp_path)
    execute(tmp_path, "UPDATE rows SET attributes = '{}' WHERE id = ?", ROW)
    execute(tmp_path, "UPDATE rows SET vector = zeroblob(64) WHERE id = ?", TAIL)
    assert not verify(tmp_path, repair=True).ok
    with pytest.raises(IndexDamaged, match="damaged"):
        opened(tmp_path)
    report = verify(tmp_path, accept_loss=True)
    assert report.ok
    assert set(report.lost_ids) == {ROW, TAIL}
    with closing(opened(tmp_path)) as index:
        check(index, {id_: number for id_, number in model.items() if id_ not in (ROW, TAIL)})
        index.upsert([item(ROW, 101), item(TAIL, 405)])
        check(index, model)


def test_while_it_serves_a_given_up_row_is_found_no_more(tmp_path: Path) -> None:
    model = filled(tmp_path)
    with closing(opened(tmp_path)) as index:
        execute(tmp_path, "UPDATE rows SET attributes = '{}' WHERE id = ?", ROW)
        with pytest.raises(IndexDamaged):
            index.get([ROW])
        assert index.stats().details["damage"]
        assert verify(index, accept_loss=True).lost_ids == (ROW,)
        del model[ROW]
        check(index, model)
        index.upkeep.maintain()
    with closing(opened(tmp_path)) as index:
        assert not index.repaired
        check(index, model)


def test_a_row_that_is_gone_is_missed(tmp_path: Path) -> None:
    model = filled(tmp_path)
    execute(tmp_path, "DELETE FROM rows WHERE id = ?", ROW)
    assert [finding.id for finding in verify(tmp_path).of("row")] == [ROW]
    assert verify(tmp_path, accept_loss=True).lost_ids == (ROW,)
    del model[ROW]
    with closing(opened(tmp_path)) as index:
        check(index, model)


def test_a_row_nobody_acknowledged_is_missed_in_the_count(tmp_path: Path) -> None:
    filled(tmp_path)
    execute(tmp_path, "DELETE FROM rows WHERE id = ?", TAIL)
    assert verify(tmp_path).of("state")
    with pytest.raises(IndexDamaged):
        opened(tmp_path)


@pytest.mark.parametrize("change", ["UPDATE frames SET data = x'00'", "DELETE FROM frames"])
def test_damaged_frames_are_given_up_only_with_consent(tmp_path: Path, change: str) -> None:
    model = filled(tmp_path, 100, frames=True)
    execute(tmp_path, f"{change} WHERE seq = (SELECT seq FROM rows WHERE id = ?)", "id-7")
    with closing(opened(tmp_path)) as index:
        with pytest.raises(IndexDamaged):
            index.get(["id-7"])
        assert [finding.id for finding in verify(index, repair=True).of("frames")] == ["id-7"]
        report = verify(index, accept_loss=True)
        assert report.ok
        assert report.lost_ids == ("id-7",)
        assert index.get(["id-7"])["id-7"].frames is None
        check(index, model)
        assert verify(index).sound
    with closing(opened(tmp_path)) as index:
        assert not index.repaired
        check(index, model)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE segments SET manifest = replace(manifest, 'rows', 'rowz')",
        "UPDATE segments SET manifest = '{'",
        "UPDATE segments SET manifest = replace(manifest, 'effort\": ', 'effort\": 1')",
        "UPDATE segments SET last_seq = last_seq - 1",
        "UPDATE segments SET first_seq = first_seq + 1",
        "UPDATE segments SET name = 'x' || name",
        "DELETE FROM segments",
        "UPDATE tombstones SET seq = seq + 1",
        "DELETE FROM tombstones",
        "UPDATE state SET covered_seq = 10",
        "UPDATE state SET covered_seq = 100000",
    ],
)
def test_damage_to_what_is_noted_of_segments_is_found_and_built_anew(tmp_path: Path, change: str) -> None:
    model = filled(tmp_path)
    execute(tmp_path, change)
    report = verify(tmp_path)
    assert report.of("segment") or report.of("row") or report.of("state"), report.findings
    with closing(opened(tmp_path)) as index:
        check(index, model)
        assert index.repaired
        index.upkeep.maintain()
        check(index, model)
    assert verify(tmp_path).sound


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE state SET commits = commits - 1",
        "UPDATE state SET commits = commits + 5",
        "UPDATE state SET last_seq = last_seq + 1",
        "UPDATE state SET items = items + 1",
        "UPDATE state SET digest = x'0000000000000000'",
        "UPDATE state SET digest = 'text'",
        "DELETE FROM state",
    ],
)
def test_damage_to_the_count_refuses_until_it_is_accepted(tmp_path: Path, change: str) -> None:
    model = filled(tmp_path)
    execute(tmp_path, change)
    with pytest.raises(IndexDamaged):
        opened(tmp_path)
    assert verify(tmp_path, repair=True).of("mark")
    assert verify(tmp_path, accept_loss=True).ok
    with closing(opened(tmp_path)) as index:
        check(index, model)
        index.upsert(items([1]))
        check(index, {**model, "id-1": 1})


@pytest.mark.parametrize("change", ["UPDATE meta SET value = 'x' WHERE key = 'metric'", "DELETE FROM meta"])
def test_damage_to_the_identity_is_told_from_another_identity(tmp_path: Path, change: str) -> None:
    filled(tmp_path, 100)
    execute(tmp_path, change)
    with pytest.raises(IndexDamaged):
        opened(tmp_path)
    assert verify(tmp_path).of("state")


def test_every_file_of_a_segment_is_watched(tmp_path: Path) -> None:
    model = filled(tmp_path)
    directory = next(path for path in (tmp_path / "segments").iterdir())
    for name in sorted(path.name for path in directory.iterdir()):
        flip(directory / name, (directory / name).stat().st_size - 1)
        with closing(opened(tmp_path)) as index:
            check(index, model)
            assert index.repaired, name
            assert verify(index).sound
        directory = next(path for path in (tmp_path / "segments").iterdir())


def test_a_segment_damaged_while_it_serves_is_built_anew_without_a_restart(tmp_path: Path) -> None:
    model = filled(tmp_path)
    with closing(opened(tmp_path)) as index:
        directory = next(path for path in (tmp_path / "segments").iterdir())
        flip(directory / "rows.npy", (directory / "rows.npy").stat().st_size - 40)
        assert verify(index).of("segment")
        report = verify(index, repair=True)
        assert report.ok, report.findings
        check(index, model)
        index.delete(["id-1"])
        del model["id-1"]
        assert verify(index).sound
    with closing(opened(tmp_path)) as index:
        assert not index.repaired
        check(index, model)


def test_a_segment_damaged_while_it_serves_is_not_merged_under_a_good_hash(tmp_path: Path) -> None:
    model = filled(tmp_path)
    with closing(opened(tmp_path)) as index:
        directory = next(path for path in (tmp_path / "segments").iterdir())
        flip(directory / "rows.npy", (directory / "rows.npy").stat().st_size - 40)
        index.upkeep.retrain()
        index.upkeep.retrain()
        assert index.stats().details["damage"]
        check(index, model)
        assert verify(index).sound


def test_pages_that_cannot_be_read_are_salvaged_around(tmp_path: Path) -> None:
    model = filled(tmp_path)
    path = tmp_path / "rows.db"
    lost = 0
    for page in range(path.stat().st_size // 8192 - 4, 4, -7):
        for offset in range(page * 8192, page * 8192 + 64):
            flip(path, offset)
        lost += 1
    assert lost
    found = verify_or_refuse(tmp_path)
    assert found
    report = verify(tmp_path, accept_loss=True)
    assert report.ok, report.findings
    assert report.lost_ids or not found
    with closing(opened(tmp_path)) as index:
        held = contents(index)
        assert set(model) - set(held) <= set(report.lost_ids)
        check(index, held)


def verify_or_refuse(directory: Path) -> bool:
    try:
        return not verify(directory).ok
    except ParakhError:
        return True


def test_a_lost_mark_is_refused_and_can_be_accepted(tmp_path: Path) -> None:
    model = filled(tmp_path)
    (tmp_path / "high-water").unlink()
    with pytest.raises(IndexDamaged, match="mark"):
        opened(tmp_path)
    assert verify(tmp_path).of("mark")
    assert verify(tmp_path, accept_loss=True).ok
    with closing(opened(tmp_path)) as index:
        check(index, model)


def test_one_damaged_slot_of_the_mark_is_told_and_written_again(tmp_path: Path) -> None:
    model = filled(tmp_path)
    flip(tmp_path / "high-water", 20)
    assert verify(tmp_path).of("mark")
    assert verify(tmp_path, repair=True).ok
    assert verify(tmp_path).sound
    with closing(opened(tmp_path)) as index:
        check(index, model)


def test_orphans_are_told_and_harmless(tmp_path: Path) -> None:
    model = filled(tmp_path)
    (tmp_path / "segments" / "000000000001-deadbeef").mkdir()
    report = verify(tmp_path)
    assert report.ok
    assert report.of("orphan")
    with closing(opened(tmp_path)) as index:
        check(index, model)
    assert not verify(tmp_path).of("orphan")


def test_the_scrub_finds_damage_by_itself(tmp_path: Path) -> None:
    model = filled(tmp_path)
    settings = BUSY.model_copy(update={"scrub_h": 0.2 / 3600})
    with closing(opened(tmp_path, settings=settings, maintain=True)) as index:
        wait_until(lambda: index.stats().details["scrubbed_at"])
        assert not index.stats().details["damage"]
        execute(tmp_path, "UPDATE rows SET attributes = '{}' WHERE id = ?", ROW)
        wait_until(lambda: index.stats().details["damage"])
        assert ROW in index.stats().details["damage"][0]
        assert index.count() == len(model)
        assert not index.stats().details["errors"]


def test_a_slow_scrub_does_not_keep_the_index_from_closing(tmp_path: Path) -> None:
    filled(tmp_path)
    started = time.monotonic()
    opened(tmp_path, maintain=True).close()
    assert time.monotonic() - started < 10


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)
