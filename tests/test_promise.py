"""The promise of ten minutes: when a post waits, when it no longer does, and when its frames are left out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from benchmarks.posts import make_video
from deployments.policy.policy import default_policy
from deployments.runtime.values import Modality, Status
from serve_app.config import AppConfig
from serve_app.http.fakes import verdict_of
from serve_app.local_nodes import LocalNodes
from serve_app.pipeline import NO_TIME, Pipeline
from serve_app.posts import MediaSource, Post, Verdict
from serve_app.promise import Plan, Promise, PromiseSettings

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TEXT = {"post_id": "p", "author_id": "a", "created_at": NOW, "caption": "good morning", "content_type": "text"}
SETTINGS = PromiseSettings(verdict_within_s=600, reserve_s=30)


def plan_at_age(age_s: float, frames_s: float | None = None, settings: PromiseSettings = SETTINGS) -> Plan:
    promise = Promise(settings, now=lambda: NOW)
    if frames_s is not None:
        promise.note(timings(clip=frames_s))
    return promise.plan(NOW - timedelta(seconds=age_s))


def timings(**steps: float) -> Verdict:
    verdict = verdict_of(Post.model_validate(TEXT), None, "p")
    return verdict.model_copy(update={"timings_s": steps})


def test_a_young_post_waits_for_a_node_that_is_down_and_an_old_one_does_not() -> None:
    assert plan_at_age(0) == Plan(wait_for_nodes=True)
    assert plan_at_age(569) == Plan(wait_for_nodes=True)
    assert plan_at_age(571) == Plan(wait_for_nodes=False)


def test_a_post_whose_deadline_has_passed_is_judged_whole() -> None:
    assert plan_at_age(600, frames_s=100) == Plan(wait_for_nodes=True)
    assert plan_at_age(86_400) == Plan(wait_for_nodes=True)


def test_frames_are_left_out_only_where_there_is_no_time_for_them() -> None:
    without = frozenset({Modality.VISUAL})
    assert plan_at_age(590, frames_s=1.0).without == frozenset()
    assert plan_at_age(590, frames_s=6.0).without == without
    assert plan_at_age(560, frames_s=100.0).without == frozenset()  # the deadline is not near yet
    never = SETTINGS.model_copy(update={"skip_frames": False})
    assert plan_at_age(599, frames_s=6.0, settings=never).without == frozenset()


def test_what_frames_take_is_learnt_from_verdicts() -> None:
    promise = Promise(SETTINGS, now=lambda: NOW)
    almost = NOW - timedelta(seconds=595)
    promise.note(timings(xlmr=50.0))
    assert not promise.plan(almost).without
    for _ in range(40):
        promise.note(timings(clip=20.0))
    assert promise.plan(almost).without
    for _ in range(80):
        promise.note(timings(clip=0.1))
    assert not promise.plan(almost).without


@pytest.fixture
async def pipeline(fake_config: AppConfig) -> AsyncIterator[Pipeline]:
    nodes = LocalNodes(fake_config)
    yield Pipeline(nodes, default_policy())
    await nodes.close()


async def test_the_verdict_says_what_was_left_out_and_asks_for_a_person(pipeline: Pipeline) -> None:
    post = Post.model_validate(TEXT | {"content_type": "video"})
    judgement = await pipeline.judge(
        post, MediaSource(data=make_video(seconds=2)), without=frozenset({Modality.VISUAL})
    )
    visual = judgement.verdict.modalities[Modality.VISUAL]
    assert (visual.status, visual.reason) == (Status.SKIPPED, NO_TIME)
    assert judgement.verdict.modalities[Modality.TEXT].status is Status.OK
    assert judgement.verdict.decision.action in ("review", "block")
    assert "visual was not judged" in judgement.verdict.decision.reason
    assert "clip" not in judgement.verdict.models


async def test_a_picture_is_never_left_out(pipeline: Pipeline, png: bytes) -> None:
    post = Post.model_validate(TEXT | {"content_type": "image"})
    judgement = await pipeline.judge(post, MediaSource(data=png), without=frozenset({Modality.VISUAL}))
    assert judgement.verdict.modalities[Modality.VISUAL].status is Status.OK


@pytest.mark.parametrize("wrong", [{"verdict_within_s": 0}, {"reserve_s": -1}, {"unknown": 1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PromiseSettings.model_validate(wrong)
