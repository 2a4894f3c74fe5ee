"""The gate as a node: batches, health, and what it says of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.review_gate.node import GateNode
from deployments.review_gate.settings import GateSettings
from deployments.review_gate.values import GateDecision
from deployments.runtime.errors import InvalidInput, MissingWeights
from tests.review_gate.posts import post


async def test_a_fresh_node_is_ready_and_reviews_everything() -> None:
    node = GateNode(GateSettings())
    assert (await node.decide(post(nsfw_score=0.0))).action == "review"
    status = await node.status()
    assert status.state == "ready"
    assert status.model is not None
    assert status.model.note == "no calibration is in force: every post is reviewed"
    await node.close()


async def test_more_posts_than_a_batch_or_a_queue_holds_come_back_in_order() -> None:
    node = GateNode(GateSettings(max_batch_weight=4, max_queue_items=8))
    posts = [post(nsfw_score=i / 32) for i in range(32)]
    decided = await node.decide_many(posts)
    assert [d.score for d in decided if isinstance(d, GateDecision)] == [p.nsfw_score for p in posts]
    assert await node.decide_many([]) == []
    await node.close()


async def test_a_bad_post_is_refused_alone() -> None:
    node = GateNode(GateSettings())
    results = await asyncio.gather(node.decide(post(views=-1)), node.decide(post()), return_exceptions=True)
    assert isinstance(results[0], InvalidInput)
    assert isinstance(results[1], GateDecision)
    many = await node.decide_many([post(), post(views=-1)])
    assert isinstance(many[1], InvalidInput)
    await node.check_health()
    await node.close()


def test_an_artefact_that_is_not_there_stops_the_node(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights):
        GateNode(GateSettings(tree=tmp_path / "nothing"))


def test_a_tree_and_a_calibration_of_the_score_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="brings its own"):
        GateSettings(tree=tmp_path, calibration=tmp_path / "c.json")
