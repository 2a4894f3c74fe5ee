"""One event to what is stored of it, over the true graph with fake encoders and a real media store."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.media.windows import SoundCut
from deployments.policy.policy import default_policy
from deployments.runtime.errors import DeadlineExceeded, FetchFailed, InvalidInput, ParakhError, UndecodableMedia
from serve_app.config import AppConfig
from serve_app.events.handling import EventHandler
from serve_app.events.incoming import ClipRecorded, PostCreated, PostViewed, Refused
from serve_app.http.fakes import FakeModerator
from serve_app.local_nodes import LocalNodes
from serve_app.media_store import DirectoryMediaStore
from serve_app.pipeline import Pipeline
from serve_app.posts import MediaSource, Post
from serve_app.promise import Promise, PromiseSettings
from serve_app.records.values import EventId, JudgedClip, JudgedPost, Refusal, ViewCount
from serve_app.streams.errors import StreamsOff
from serve_app.streams.judging import ClipJudge
from serve_app.streams.values import Clip

NAME = EventId("/test", "1")
AT = datetime(2026, 11, 1, tzinfo=UTC)


def created(media: MediaSource | None = None, **fields: Any) -> PostCreated:
    given: dict[str, Any] = {"post_id": "p1", "author_id": "a", "created_at": AT, "caption": "good morning"}
    kind = "text" if media is None else "image"
    return PostCreated(NAME, Post.model_validate(given | {"content_type": kind} | fields), media)


@pytest.fixture
async def nodes(fake_config: AppConfig) -> AsyncIterator[LocalNodes]:
    config = fake_config.model_copy(
        update={"streams": fake_config.streams.model_validate({"encoder": {"variant": "fake"}})}
    )
    made = LocalNodes(config)
    yield made
    await made.close()


@pytest.fixture
def store(tmp_path: Path) -> DirectoryMediaStore:
    return DirectoryMediaStore(tmp_path / "media")


def handler(nodes: LocalNodes, store: DirectoryMediaStore, fetched: bytes | Exception = b"") -> EventHandler:
    async def fetch(url: str) -> bytes:
        if isinstance(fetched, Exception):
            raise fetched
        return fetched

    policy = default_policy()
    clips = ClipJudge(nodes, policy, SoundCut(20.0))
    return EventHandler(Pipeline(nodes, policy), clips, store, fetch, Promise())


async def test_a_post_is_judged_and_its_media_kept(nodes: LocalNodes, store: DirectoryMediaStore, png: bytes) -> None:
    work = await handler(nodes, store).work(created(MediaSource(data=png)), 30.0)
    assert isinstance(work, JudgedPost)
    assert work.verdict.post_id == "p1"
    assert work.content is not None
    assert work.submission.media_sha256 == work.verdict.media_sha256
    assert await store.get(work.submission.media_sha256 or "") == png
    assert work.media == png


async def test_media_behind_a_url_is_fetched_once_and_kept(
    nodes: LocalNodes, store: DirectoryMediaStore, png: bytes
) -> None:
    by_url = await handler(nodes, store, png).work(created(MediaSource(url="https://example.com/a.png")), 30.0)
    by_bytes = await handler(nodes, store).work(created(MediaSource(data=png)), 30.0)
    assert isinstance(by_url, JudgedPost)
    assert isinstance(by_bytes, JudgedPost)
    assert by_url.submission.media_sha256 == by_bytes.submission.media_sha256
    assert by_url.submission.media_url == "https://example.com/a.png"
    assert by_url.submission.fingerprint != by_bytes.submission.fingerprint


@pytest.mark.parametrize("fetched", [FetchFailed("The server said 404."), b""])
async def test_media_that_is_not_delivered_fails_the_attempt(
    nodes: LocalNodes, store: DirectoryMediaStore, fetched: Any
) -> None:
    with pytest.raises(FetchFailed):
        await handler(nodes, store, fetched).work(created(MediaSource(url="https://example.com/a.png")), 30.0)


async def test_media_that_is_none_is_refused(nodes: LocalNodes, store: DirectoryMediaStore, png: bytes) -> None:
    with pytest.raises(UndecodableMedia):
        await handler(nodes, store).work(created(MediaSource(data=png[:40]), caption=None), 30.0)


async def test_a_clip_a_view_and_a_refusal(nodes: LocalNodes, store: DirectoryMediaStore, wav: bytes) -> None:
    clip = Clip(stream_id="s", start_s=20.0, created_at=AT)
    judged = await handler(nodes, store).work(ClipRecorded(NAME, clip, MediaSource(data=wav)), 30.0)
    assert isinstance(judged, JudgedClip)
    assert (judged.result.stream_id, judged.result.start_s, judged.result.duration_s) == ("s", 20.0, 2.0)
    with pytest.raises(InvalidInput):
        await handler(nodes, store).work(ClipRecorded(NAME, clip, MediaSource(data=b"")), 30.0)
    count = ViewCount("p1", 1000, AT)
    assert await handler(nodes, store).work(PostViewed(NAME, count), 1.0) == count
    refusal = Refusal("not_json", "It is no JSON.")
    assert await handler(nodes, store).work(Refused(None, refusal), 1.0) == refusal


async def test_without_streams_a_clip_is_refused(store: DirectoryMediaStore) -> None:
    clip = ClipRecorded(NAME, Clip(stream_id="s", start_s=0, created_at=AT), MediaSource(data=b"x"))
    with pytest.raises(StreamsOff):
        await EventHandler(FakeModerator(), None, store, _nothing, Promise()).work(clip, 1.0)


async def test_a_post_waits_for_nodes_until_its_deadline_is_near(store: DirectoryMediaStore) -> None:
    now = datetime(2026, 11, 2, tzinfo=UTC)
    promise = Promise(PromiseSettings(verdict_within_s=600, reserve_s=30), now=lambda: now)
    moderator = FakeModerator()
    subject = EventHandler(moderator, None, store, _nothing, promise)
    for age_s in (10, 590):
        await subject.work(created(created_at=now - timedelta(seconds=age_s)), 1.0)
    assert moderator.waited == [True, False]


async def test_a_verdict_that_json_cannot_hold_is_an_error(store: DirectoryMediaStore) -> None:
    class Broken(FakeModerator):
        async def judge(self, post: Post, media: MediaSource | None, **given: Any) -> Any:
            judgement = await super().judge(post, media, **given)
            broken = judgement.verdict.model_copy(update={"nsfw_score": math.nan})
            return type(judgement)(broken, judgement.content)

    with pytest.raises(ParakhError):
        await EventHandler(Broken(), None, store, _nothing, Promise()).work(created(), 1.0)


async def _nothing(url: str) -> bytes:
    raise AssertionError(url)


async def test_media_that_never_comes_ends_the_attempt(nodes: LocalNodes, store: DirectoryMediaStore) -> None:
    async def hangs(url: str) -> bytes:
        await asyncio.sleep(60)
        return b""

    waiting = EventHandler(Pipeline(nodes, default_policy()), None, store, hangs, Promise())
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await waiting.work(created(MediaSource(url="https://example.com/a.png")), 0.1)
    assert time.monotonic() - began < 5
