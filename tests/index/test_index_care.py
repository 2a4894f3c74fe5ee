"""`parakh index tune`, `verify` and `snapshot`."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.similarity.values import Item
from tests.index.index_world import CLIP, KEY, NAME, World, table, vectors
from tests.similarity.embedded_world import execute, flip


def test_tuning_tells_effort_and_recall_before_and_after_and_keeps_it(world: World) -> None:
    world.build(vectors(3000))
    before = world.stats()["effort"]
    told = world.parakh("tune", NAME, "--recall", "0.5")
    assert told.code == 0, told.err
    assert "recall@10" in told.out
    assert f"{before} ->" in told.out
    assert world.stats()["effort"] < before
    world.parakh("tune", "--all")
    assert world.stats()["effort"] == before


def test_what_is_searched_exactly_needs_no_tuning(world: World) -> None:
    np.save(world.directory / "h.npy", np.random.default_rng(0).integers(0, 256, (50, 32), dtype=np.uint8))
    name = "known-bad.any.image.pdq"
    assert world.parakh("build", name, world.directory / "h.npy", "--encoder", "pdq@1").code == 0
    told = world.parakh("tune", name)
    assert told.code == 0
    assert "exact" in told.out
    assert "1.000 -> 1.000" in told.out


@pytest.mark.parametrize("arguments", [[], [NAME, "--all"], [NAME, "--recall", "1.5"], [NAME, "--recall", "0"]])
def test_tuning_wants_one_partition_or_all_and_a_recall_that_can_be(world: World, arguments: list[str]) -> None:
    world.build(vectors(3))
    assert world.parakh("tune", *arguments).code == 2


def test_verify_finds_repairs_and_gives_up_only_with_consent(world: World) -> None:
    path = table(
        world.directory / "t.parquet",
        id=list(range(600)),
        vector=vectors(600).tolist(),
        attributes=['{"owner": "studio"}'] * 600,
    )
    assert world.parakh("build", NAME, path, "--encoder", "clip@1").code == 0
    told = world.parakh("verify")
    assert told.code == 0
    assert f"{NAME} generation 1 (active): 600 rows, 1 segment" in told.out
    assert "sound" in told.out
    directory = world.root / NAME / "g0001"
    execute(directory, "UPDATE rows SET vector = zeroblob(length(vector)) WHERE id = '7'")
    told = world.parakh("verify", NAME)
    assert told.code == 1
    assert "found row: " in told.out
    told = world.parakh("verify", NAME, "--repair")
    assert told.code == 0, told.out
    assert "repaired row: " in told.out
    assert world.stats()["items"] == 600
    (segment,) = (directory / "segments").iterdir()
    flip(segment / "codes.faiss", 100)
    execute(directory, "UPDATE rows SET attributes = '{\"x\": 1}' WHERE id = '7'")
    assert world.parakh("verify", "--repair").code == 1
    told = world.parakh("verify", "--accept-loss")
    assert told.code == 0, told.out
    assert "to be indexed again: 7" in told.out
    assert world.stats()["items"] == 599


def test_verify_goes_on_past_what_cannot_be_read(world: World) -> None:
    world.build(vectors(3))
    np.save(world.directory / "v.npy", vectors(2))
    assert world.parakh("build", "posts.ta.video.visual", world.directory / "v.npy", "--encoder", "clip@1").code == 0
    (world.root / NAME / "g0001" / "rows.db").write_bytes(b"nonsense" * 1000)
    told = world.parakh("verify")
    assert told.code == 1
    assert f"{NAME} generation 1 (active): " in told.out
    assert "posts.ta.video.visual generation 1 (active): 2 rows" in told.out
    assert "sound" in told.out


def test_a_snapshot_leaves_a_restart_nothing_to_replay(world: World) -> None:
    owner = world.opened()
    owner.upsert(KEY, CLIP, [Item("a", vectors(1)[0])])
    owner.close()
    told = world.parakh("snapshot")
    assert told.code == 0
    assert f"{NAME} generation 1: 1 items" in told.out
    assert list((world.root / NAME / "g0001" / "segments").iterdir())
