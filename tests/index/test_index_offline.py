"""Who owns the directory, and what is not made by looking at it."""

from __future__ import annotations

import pytest

from deployments.similarity.partitions.root_lock import RootLock
from tests.index.index_world import NAME, World, vectors


@pytest.mark.parametrize(
    "command",
    [
        ["build", NAME, "vectors.npy", "--encoder", "clip@1"],
        ["stats"],
        ["tune", "--all"],
        ["verify"],
        ["snapshot"],
        ["backup", NAME, "there"],
        ["begin", NAME, "--encoder", "clip@1"],
        ["copy", NAME],
        ["switch", NAME],
        ["rollback", NAME],
        ["retire", NAME],
    ],
    ids=lambda command: command[0],
)
def test_where_a_server_owns_the_directory_one_line_says_who_and_what_to_do(
    world: World, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build(vectors(3))
    monkeypatch.chdir(world.directory)
    lock = RootLock(world.root / "lock")
    try:
        told = world.parakh(*command)
    finally:
        lock.release()
    assert told.code == 1
    (line,) = [line for line in told.err.splitlines() if line.strip()]
    assert "owned by the process with pid" in line
    assert "Stop it first" in line
    assert "--url" in line


def test_what_is_not_there_is_not_made(world: World) -> None:
    assert world.parakh("stats").out.strip() == "There are no partitions."
    told = world.parakh("verify")
    assert told.code == 1
    assert "no similarity index" in told.err
    assert not world.root.exists()
    world.build(vectors(3))
    for command in (["stats"], ["verify"], ["snapshot"], ["tune"], ["switch"], ["copy"], ["retire"]):
        told = world.parakh(*command, "posts.ta.video.visual")
        assert told.code == 1, command
        assert "no partition posts.ta.video.visual" in told.err
