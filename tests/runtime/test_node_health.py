"""A node is ready where a real pass is fresh, and replaced only where it cannot be expected to recover."""

from __future__ import annotations

import pytest

from deployments.runtime.errors import NodeUnavailable, StuckBatch
from deployments.runtime.health import MAX_PASS_AGE_S, PROBE_AFTER_S, Health


class Node:
    """A node whose time, work and luck are set by hand."""

    def __init__(self, *, can_probe: bool | None = None) -> None:
        self.now = 1000.0
        self.running_s = 0.0
        self.broken: Exception | None = None
        self.probes = 0
        self.health = Health(
            "ears",
            probe=self.probe,
            running_s=lambda: self.running_s,
            stuck_after_s=60.0,
            can_probe=None if can_probe is None else lambda: can_probe,
            clock=lambda: self.now,
        )

    async def probe(self) -> None:
        self.probes += 1
        if self.broken is not None:
            raise self.broken

    async def state(self) -> tuple[str, str | None]:
        status = await self.health.status(None)
        return status.state, status.reason


async def test_a_node_is_ready_from_its_warm_up_on() -> None:
    node = Node()
    assert await node.state() == ("ready", None)
    assert node.probes == 0


async def test_an_idle_node_proves_itself_when_asked() -> None:
    node = Node()
    for _ in range(20):
        node.now += 10
        await node.health.check()
        assert await node.state() == ("ready", None)
    assert node.probes == 20
    assert (await node.health.status(None)).last_forward_age_s == 0


async def test_traffic_spares_the_probe() -> None:
    node = Node()
    for _ in range(10):
        node.now += PROBE_AFTER_S
        node.health.succeeded()
        await node.health.check()
    assert node.probes == 0


async def test_a_probe_that_fails_makes_the_node_sick_once_its_last_pass_is_too_old() -> None:
    node = Node()
    node.broken = ValueError("/secret/path")
    node.now += MAX_PASS_AGE_S - 1
    await node.health.check()
    assert await node.state() == ("ready", None)
    node.now += 2
    assert await node.state() == ("sick", "ears: no pass has succeeded for 31 s (ValueError).")
    with pytest.raises(NodeUnavailable):
        await node.health.check()
    node.broken = None
    await node.health.check()
    assert await node.state() == ("ready", None)


async def test_a_stuck_batch_replaces_the_node() -> None:
    node = Node()
    node.now += 61
    node.running_s = 61
    with pytest.raises(StuckBatch, match="61 s"):
        await node.health.check()
    assert await node.state() == ("sick", "ears: work has been running for 61 s.")
    assert node.probes == 0  # it would only wait behind the stuck batch


@pytest.mark.parametrize("failed_before", [False, True])
async def test_a_long_batch_makes_the_node_sick_and_does_not_replace_it(failed_before: bool) -> None:
    node = Node()
    node.now += 1
    if failed_before:
        node.health.failed(ValueError())
    node.now += 50
    node.running_s = 50
    await node.health.check()
    state, reason = await node.state()
    assert state == "sick"
    assert reason is not None
    assert "no pass has succeeded for 51 s" in reason


async def test_a_busy_node_that_fails_at_everything_is_replaced() -> None:
    node = Node()
    node.running_s = 1
    for _ in range(31):
        node.now += 1
        node.health.failed(MemoryError())
    with pytest.raises(NodeUnavailable, match="MemoryError"):
        await node.health.check()


async def test_a_node_with_room_beside_its_work_is_probed_and_one_without_is_not() -> None:
    for can_probe in (True, False):
        node = Node(can_probe=can_probe)
        node.now, node.running_s = node.now + 31, 31
        assert (await node.state())[0] == ("ready" if can_probe else "sick")
