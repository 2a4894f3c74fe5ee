"""`parakh index begin`, `copy`, `switch`, `rollback` and `retire`."""

from __future__ import annotations

import pytest
import yaml

from tests.index.index_world import NAME, World, vectors


def test_another_encoder_is_built_beside_and_switched_when_nothing_lacks(world: World) -> None:
    ids = [f"p{n}" for n in range(20)]
    world.build(vectors(20), ids)
    assert world.parakh("begin", NAME, "--encoder", "clip@2").code == 2  # of which dimension?
    told = world.parakh("begin", NAME, "--encoder", "clip@2", "--dimension", "8")
    assert told.code == 0, told.err
    assert "generation 2 of clip@2" in told.out
    assert world.parakh("begin", NAME, "--encoder", "clip@3", "--dimension", "8").code == 1
    world.build(vectors(15, seed=2), ids[:15], encoder="clip@2")
    told = world.parakh("switch", NAME)
    assert told.code == 1
    assert "5 items are lacking" in told.err
    assert "  p15" in told.err
    assert "--force" in told.err
    world.build(vectors(20, seed=2), ids, encoder="clip@2")
    told = world.parakh("switch", NAME)
    assert told.code == 0
    assert "nothing is lacking" in told.out
    assert "generation 2 of clip@2 is live" in told.out
    assert [one["state"] for one in world.stats()["generations"]] == ["previous", "active"]
    told = world.parakh("rollback", NAME)
    assert "generation 1 of clip@1 is live" in told.out
    told = world.parakh("retire", NAME)
    assert told.code == 0
    assert "generation 2 is retired" in told.out


def test_a_switch_by_force_says_what_is_lacking(world: World) -> None:
    world.build(vectors(20), [f"p{n}" for n in range(20)])
    assert world.parakh("begin", NAME, "--encoder", "clip@2", "--dimension", "8").code == 0
    told = world.parakh("switch", NAME, "--force")
    assert told.code == 0
    assert "20 items are lacking" in told.out
    assert "and 10 more" in told.out
    assert world.stats()["items"] == 0


def test_a_damaged_live_generation_is_left_by_force_alone(world: World) -> None:
    world.build(vectors(3))
    assert world.parakh("begin", NAME, "--encoder", "clip@2", "--dimension", "8").code == 0
    world.build(vectors(3), encoder="clip@2")
    (world.root / NAME / "g0001" / "rows.db").write_bytes(b"nonsense" * 1000)
    told = world.parakh("switch", NAME)
    assert told.code == 1
    assert "cannot be told what is lacking" in told.err
    assert world.parakh("switch", NAME, "--force").code == 0
    assert world.stats()["items"] == 3


def test_other_index_settings_are_filled_by_a_copy(world: World) -> None:
    world.build(vectors(300))
    config = yaml.safe_load(world.config.read_text())
    similarity = config["applications"][0]["args"]["similarity"]["settings"]
    similarity["overrides"] = [{"partition": NAME, "index": {"index_type": "FLAT"}}]
    world.config.write_text(yaml.safe_dump(config))
    assert world.parakh("copy", NAME).code == 1  # nothing is being built
    told = world.parakh("begin", NAME, "--encoder", "clip@1")
    assert told.code == 0
    assert "(FLAT)" in told.out
    told = world.parakh("copy", NAME)
    assert "300 items copied" in told.out
    world.build(vectors(1, seed=5), ["both"])  # a build goes to both generations of the encoder
    assert [one["items"] for one in world.stats()["generations"]] == [301, 301]
    assert world.parakh("switch", NAME).code == 0
    assert world.stats()["index_type"] == "FLAT"


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["switch", NAME], "no generation that is being built"),
        (["rollback", NAME], "no previous generation"),
        (["retire", NAME], "Say which generation"),
        (["retire", NAME, "1"], "no generation 1 that can be retired"),
        (["begin", NAME, "--encoder", "clip"], "NAME@VERSION"),
    ],
)
def test_generations_that_are_not_there_cannot_be_changed(world: World, command: list[str], complaint: str) -> None:
    world.build(vectors(3))
    told = world.parakh(*command)
    assert told.code in (1, 2)
    assert complaint in told.err
