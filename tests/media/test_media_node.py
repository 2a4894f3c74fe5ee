"""The media node's health: files prove nothing by being refused, and its own picture must decode."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from deployments.media import node as media_node
from deployments.media.decoder import MediaDecoder
from deployments.media.node import MediaNode
from deployments.media.settings import MediaSettings
from deployments.runtime import health
from deployments.runtime.errors import NodeUnavailable, StuckBatch, UndecodableMedia
from deployments.runtime.values import DecodedMedia, FrameSpec

if TYPE_CHECKING:
    from tests.media.conftest import Make


class Decoder:
    """Refuses every file while `refuses`; every other call waits at the gate and then decodes."""

    def __init__(self, real: MediaDecoder) -> None:
        self.real = real
        self.refuses: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.calls = 0

    def __call__(self, settings: MediaSettings, spec: FrameSpec) -> Decoder:
        return self

    def decode(self, data: bytes, use: str = "post", max_s: float | None = None) -> DecodedMedia:
        self.calls += 1
        if self.refuses is not None:
            raise self.refuses
        if data.startswith(b"wait"):
            self.gate.wait(5)
            raise UndecodableMedia
        return self.real.decode(data)

    def close(self) -> None:
        """The real one belongs to the session."""


@pytest.fixture
def fake(decoder: MediaDecoder, monkeypatch: pytest.MonkeyPatch) -> Decoder:
    found = Decoder(decoder)
    monkeypatch.setattr(media_node, "MediaDecoder", found)
    return found


@pytest.fixture
def node(fake: Decoder) -> Iterator[MediaNode]:
    made = MediaNode(MediaSettings(decode_workers=2), FrameSpec())
    yield made
    made.close()


def impatient(monkeypatch: pytest.MonkeyPatch, *, probe_after_s: float, max_pass_age_s: float) -> None:
    monkeypatch.setattr(health, "PROBE_AFTER_S", probe_after_s)
    monkeypatch.setattr(health, "MAX_PASS_AGE_S", max_pass_age_s)


async def test_a_decoded_file_is_a_pass(make: type[Make], node: MediaNode, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.sleep(0.6)
    await node.decode(make.image(size=(4, 4)))
    impatient(monkeypatch, probe_after_s=100, max_pass_age_s=0.5)
    assert (await node.status()).state == "ready"


@pytest.mark.parametrize("error", [UndecodableMedia("The media made the decoder crash."), NodeUnavailable("no child")])
async def test_a_refused_file_is_no_pass_and_only_a_node_without_children_fails(
    node: MediaNode, fake: Decoder, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.refuses = error
    await asyncio.sleep(0.06)
    with pytest.raises(type(error)):
        await node.decode(b"x")
    impatient(monkeypatch, probe_after_s=100, max_pass_age_s=0.05)
    status = await node.status()
    assert status.state == "sick"
    assert ("NodeUnavailable" in str(status.reason)) is isinstance(error, NodeUnavailable)


async def test_a_node_that_cannot_decode_its_own_picture_is_sick(
    node: MediaNode, fake: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.refuses = UndecodableMedia("The media made the decoder crash.")
    await asyncio.sleep(0.06)
    impatient(monkeypatch, probe_after_s=0.01, max_pass_age_s=0.05)
    with pytest.raises(NodeUnavailable, match="UndecodableMedia"):
        await node.check_health()
    assert (await node.status()).state == "sick"
    fake.refuses = None
    await node.check_health()
    assert (await node.status()).state == "ready"


async def test_one_slow_file_leaves_room_for_the_probe_and_two_do_not(
    node: MediaNode, fake: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.gate.clear()
    impatient(monkeypatch, probe_after_s=0.0, max_pass_age_s=100)
    for slow, probes in ((1, 1), (2, 0)):
        tasks = [asyncio.create_task(node.decode(b"wait")) for _ in range(slow)]
        await asyncio.sleep(0.05)
        before = fake.calls
        await node.check_health()
        assert fake.calls - before == probes
        fake.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        fake.gate.clear()


async def test_the_oldest_of_files_that_began_together_is_not_forgotten(
    fake: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = MediaNode(MediaSettings(decode_workers=2, decode_wall_s=0.1), FrameSpec())
    fake.gate.clear()
    now = time.monotonic()
    with monkeypatch.context() as still:
        still.setattr(media_node, "time", SimpleNamespace(monotonic=lambda: now))
        tasks = [asyncio.create_task(node.decode(body)) for body in (b"wait", b"broken")]
        await asyncio.wait(tasks[1:], timeout=0.2)
    await asyncio.sleep(0.25)
    with pytest.raises(StuckBatch):  # older than twice its wall time
        await node.check_health()
    fake.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await node.check_health()
    node.close()
