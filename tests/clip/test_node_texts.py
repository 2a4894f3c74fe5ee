"""The visual node's second way to its model, texts, is part of the node's life."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from deployments.clip.fake import FakeVisualEncoder
from deployments.clip.node import VisualNode
from deployments.clip.settings import ClipSettings
from deployments.runtime import health
from deployments.runtime.errors import NodeUnavailable, NotFound, StuckBatch
from deployments.runtime.node import NodeSettings
from deployments.runtime.values import TextEmbedding


class Texts:
    """Text vectors on command, in place of the fake encoder's refusal."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, texts: Sequence[str]) -> list[TextEmbedding | Exception]:
        self.gate.wait(5)
        if "!" in texts:
            raise RuntimeError
        return [TextEmbedding(np.zeros(3, np.float32), tokens=1, truncated=False) for _ in texts]


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> Texts:
    found = Texts()
    monkeypatch.setattr(FakeVisualEncoder, "embed_text", lambda self, items: found(items))
    return found


def visual_node(stuck_after_s: float = 60.0) -> VisualNode:
    return VisualNode(ClipSettings(model="fake"), NodeSettings(stuck_after_s=stuck_after_s))


async def test_texts_carry_the_nodes_card(texts: Texts) -> None:
    node = visual_node()
    assert (await node.encode_joint_text("a")).model == node.encoder.card
    await node.close()


async def test_a_closed_node_takes_no_texts(texts: Texts) -> None:
    node = visual_node()
    await node.close()
    with pytest.raises(NodeUnavailable):
        await node.encode_joint_text("a")


async def test_a_stuck_text_is_a_stuck_node(texts: Texts) -> None:
    node = visual_node(stuck_after_s=0.05)
    texts.gate.clear()
    waiting = asyncio.create_task(node.encode_joint_text("a"))
    await asyncio.sleep(0.1)
    with pytest.raises(StuckBatch):
        await node.check_health()
    assert (await node.status()).state == "sick"
    texts.gate.set()
    await waiting
    assert (await node.status()).state == "ready"
    await node.close()


async def test_a_text_that_fails_is_told(texts: Texts, monkeypatch: pytest.MonkeyPatch) -> None:
    node = visual_node()
    await asyncio.sleep(0.05)
    with pytest.raises(RuntimeError):
        await node.encode_joint_text("!")
    monkeypatch.setattr(health, "MAX_PASS_AGE_S", 0.04)
    assert "RuntimeError" in str((await node.status()).reason)
    await node.close()


async def test_a_node_without_a_joint_space_is_not_sick_of_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    node = visual_node()
    await asyncio.sleep(0.05)
    with pytest.raises(NotFound):
        await node.encode_joint_text("a")
    monkeypatch.setattr(health, "MAX_PASS_AGE_S", 0.04)
    await node.check_health()
    assert "NotFound" not in str((await node.status()).reason)
    await node.close()
