"""`parakh index backup` and `restore`."""

from __future__ import annotations

from tests.index.index_world import NAME, World, vectors
from tests.similarity.embedded_world import flip


def test_a_backup_comes_back_live_and_can_be_rolled_back(world: World) -> None:
    there = world.directory / "backups"
    world.build(vectors(300))
    told = world.parakh("backup", NAME, str(there))
    assert told.code == 0, told.err
    assert "300 items" in told.out
    world.build(vectors(1, seed=9), ["late"])
    assert world.parakh("backup", NAME, str(there)).code == 0
    listed = world.run("index", "backups", there)
    assert "300" in listed.out
    assert "301" in listed.out
    first = sorted(path.stem for path in (there / "backups").iterdir())[0]
    told = world.parakh("restore", NAME, str(there), "--name", first)
    assert told.code == 0, told.err
    assert "300 items" in told.out
    assert "generation 2" in told.out
    assert world.stats()["items"] == 300
    assert world.parakh("rollback", NAME).code == 0
    assert world.stats()["items"] == 301
    assert world.parakh("retire", NAME).code == 0
    told = world.parakh("backup", NAME, str(there), "--keep", "1")
    assert told.code == 0
    assert len(list((there / "backups").iterdir())) == 1


def test_a_restore_makes_a_partition_and_heals_a_damaged_one(world: World) -> None:
    there = world.directory / "backups"
    world.build(vectors(50))
    assert world.parakh("backup", NAME, str(there)).code == 0
    assert world.parakh("restore", "posts.ta.video.visual", str(there)).code == 0
    (world.root / NAME / "g0001" / "rows.db").write_bytes(b"nonsense" * 1000)
    assert world.parakh("stats").code == 1
    assert world.parakh("restore", NAME, str(there)).code == 0
    reports = world.parakh("stats", "--json").reports
    assert [report["items"] for report in reports] == [50, 50]
    assert [report["damaged"] for report in reports] == [None, None]


def test_a_restore_that_cannot_be_changes_nothing(world: World) -> None:
    there = world.directory / "backups"
    world.build(vectors(50))
    assert world.parakh("backup", NAME, str(there)).code == 0
    assert world.parakh("restore", NAME, str(world.directory / "nowhere")).code == 1
    assert world.parakh("restore", NAME, str(there), "--name", "other").code == 1
    assert world.parakh("restore", "posts.hi.video.pdq", str(there)).code == 2
    assert world.parakh("restore", "posts.hi.vdeo.visual", str(there)).code == 2
    assert world.parakh("backup", NAME, "ftp://somewhere").code == 2
    (rows,) = (there / "rows").iterdir()
    flip(rows, 5000)
    told = world.parakh("restore", NAME, str(there))
    assert told.code == 1
    assert "not what was written" in told.err
    assert [one["number"] for one in world.stats()["generations"]] == [1]
    assert [path.name for path in (world.root / NAME).iterdir()] == ["g0001"]
