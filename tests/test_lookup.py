"""What the pipeline does with what is known of a post, and with an index that fails, hangs or is not there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from deployments.policy.policy import default_policy
from deployments.runtime.errors import InvalidInput, NodeUnavailable, Overloaded
from deployments.runtime.values import ContentType, Embeddings, ModelCard
from deployments.similarity.content import Content, MatchAnswer, Use
from serve_app.config import AppConfig
from serve_app.contents import MAX_FRAMES, content_of, primary_subtag
from serve_app.fake_similarity import FakeSimilarity
from serve_app.local_nodes import LocalNodes
from serve_app.lookup import Lookup
from serve_app.nodes import Decoded
from serve_app.pipeline import Pipeline
from serve_app.posts import MediaSource, Post, Verdict
from serve_app.similarity import Digests, ListedDigest, SameContent


@dataclass
class FakeKnown:
    """KnownContent of dictionaries."""

    md5s: set[str] = field(default_factory=set)
    posts: dict[str, str] = field(default_factory=dict)  # id -> action
    errors: list[Exception] = field(default_factory=list)

    async def listed(self, digests: Digests) -> list[ListedDigest]:
        if self.errors:
            raise self.errors.pop(0)
        return [ListedDigest("bad", "md5", digests.md5, ())] if digests.md5 in self.md5s else []

    async def original(self, content: SameContent) -> Verdict | None:
        return None

    async def actions(self, post_ids: Collection[str]) -> Mapping[str, str]:
        return {post_id: self.posts[post_id] for post_id in post_ids if post_id in self.posts}


class Counted:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def matched(self, use: str, stage: str) -> None:
        self.seen.append(f"{use} by {stage}")

    def reused(self) -> None:
        self.seen.append("reused")

    def search_failed(self) -> None:
        self.seen.append("failed")


class UrlNodes(LocalNodes):
    """The media behind every URL is the same."""

    media = b""

    async def decode(self, media: MediaSource) -> Decoded:
        return await super().decode(MediaSource(data=self.media) if media.url is not None else media)


@pytest.fixture
async def nodes(fake_config: AppConfig) -> AsyncIterator[UrlNodes]:
    subject = UrlNodes(fake_config)
    yield subject
    await subject.close()


def post(post_id: str = "p1", caption: str | None = None, **fields: Any) -> Post:
    given = {"content_type": ContentType.IMAGE, "created_at": datetime.now(UTC)} | fields
    return Post(post_id=post_id, author_id="a1", caption=caption, **given)


def pipeline(nodes: LocalNodes, similarity: Any, known: FakeKnown | None = None, **options: Any) -> Pipeline:
    return Pipeline(nodes, default_policy(), Lookup(similarity, known, **options))


async def test_without_an_index_the_verdict_says_off(nodes: UrlNodes, png: bytes) -> None:
    judgement = await Pipeline(nodes, default_policy()).judge(post(), MediaSource(data=png))
    assert judgement.verdict.similarity.status == "off"
    assert judgement.content is not None


async def test_a_hanging_index_costs_its_time_and_no_verdict(nodes: UrlNodes, png: bytes) -> None:
    class Hangs(FakeSimilarity):
        async def match(self, content: Content, uses: Sequence[Use]) -> MatchAnswer:
            await asyncio.sleep(30)
            raise AssertionError

    counted = Counted()
    subject = pipeline(nodes, Hangs(), timeout_s=0.05, observer=counted)
    verdict = await subject.moderate(post(), MediaSource(data=png))
    assert verdict.similarity.status == "failed"
    assert counted.seen == ["failed"]
    with pytest.raises(NodeUnavailable):
        await subject.moderate(post(), MediaSource(data=png), wait_for_nodes=True)


@pytest.mark.parametrize("error", [NodeUnavailable(), Overloaded()])
async def test_who_can_wait_waits_for_the_index(nodes: UrlNodes, png: bytes, error: Exception) -> None:
    similarity = FakeSimilarity(errors=[error])
    with pytest.raises(type(error)):
        await pipeline(nodes, similarity).moderate(post(), MediaSource(data=png), wait_for_nodes=True)


async def test_nobody_waits_for_what_the_index_refuses(nodes: UrlNodes, png: bytes) -> None:
    similarity = FakeSimilarity(errors=[InvalidInput("too long an id")])
    verdict = await pipeline(nodes, similarity).moderate(post(), MediaSource(data=png), wait_for_nodes=True)
    assert verdict.similarity.reason == "too long an id"


async def test_who_can_wait_waits_for_the_records(nodes: UrlNodes, png: bytes) -> None:
    known = FakeKnown(errors=[NodeUnavailable(), NodeUnavailable()])
    subject = pipeline(nodes, FakeSimilarity(), known)
    with pytest.raises(NodeUnavailable):
        await subject.moderate(post(), MediaSource(data=png), wait_for_nodes=True)
    verdict = await subject.moderate(post(), MediaSource(data=png))
    assert verdict.similarity.status == "failed"
    assert verdict.modalities


async def test_bytes_behind_a_url_are_known_as_soon_as_they_are_fetched(nodes: UrlNodes, png: bytes) -> None:
    nodes.media = png
    known = FakeKnown(md5s={hashlib.md5(png).hexdigest()})
    counted = Counted()
    subject = pipeline(nodes, FakeSimilarity(), known, observer=counted)
    judgement = await subject.judge(post(), MediaSource(url="http://example.com/a.png"))
    verdict = judgement.verdict
    assert (verdict.decision.action, verdict.decision.use) == ("block", "known_bad")
    assert (verdict.models, judgement.content) == ({}, None)
    assert verdict.media_sha256 == hashlib.sha256(png).hexdigest()
    assert counted.seen == ["known_bad by digest"]


async def test_hash_lists_that_could_not_be_asked_about_a_url_are_told(nodes: UrlNodes, png: bytes) -> None:
    nodes.media = png
    source = MediaSource(url="http://example.com/a.png")
    subject = pipeline(nodes, FakeSimilarity(), FakeKnown(errors=[NodeUnavailable(), NodeUnavailable()]))
    with pytest.raises(NodeUnavailable):
        await subject.judge(post(), source, wait_for_nodes=True)
    verdict = await subject.moderate(post(), source)
    assert verdict.similarity.status == "failed"
    assert (verdict.similarity.reason or "").startswith("known_bad")


async def test_a_duplicate_inherits_what_was_decided_of_the_original(nodes: UrlNodes, png: bytes) -> None:
    similarity = FakeSimilarity()
    subject = pipeline(nodes, similarity, FakeKnown(posts={"p1": "block"}))
    first = await subject.judge(post("p1"), MediaSource(data=png))
    assert first.content is not None
    await similarity.index([first.content])
    verdict = await subject.moderate(post("p2"), MediaSource(data=png))
    assert [match.id for match in verdict.matches] == ["p1"]
    assert verdict.decision.action == "block"
    assert verdict.decision.use in ("duplicate", None)  # None where the scores alone blocked it


async def test_known_bad_comes_first_and_duplicates_last(nodes: UrlNodes, png: bytes) -> None:
    similarity = FakeSimilarity()
    subject = pipeline(nodes, similarity)
    content = (await subject.judge(post("p1"), MediaSource(data=png))).content
    assert content is not None
    for bank in ("posts", "protected", "known-bad"):
        await similarity.index([content], bank)
    verdict = await subject.moderate(post("p2"), MediaSource(data=png))
    assert [match.use for match in verdict.matches] == ["known_bad", "protected", "duplicate"]


async def test_what_is_described_is_what_is_indexed(nodes: UrlNodes, png: bytes) -> None:
    subject = pipeline(nodes, FakeSimilarity())
    judged = (await subject.judge(post(caption="hi"), MediaSource(data=png))).content
    described = await subject.describe(post(caption="hi"), MediaSource(data=png))
    assert judged is not None
    assert described.vectors.keys() == judged.vectors.keys() == {"visual", "text"}
    assert (described.sha256, described.content_type) == (hashlib.sha256(png).hexdigest(), "image")


@pytest.mark.parametrize(("tag", "subtag"), [("hi-Latn-IN", "hi"), ("EN", "en"), (None, "any")])
def test_a_partitions_language_is_the_primary_subtag(tag: str | None, subtag: str) -> None:
    assert primary_subtag(tag) == subtag


async def test_a_long_videos_frames_are_kept_in_an_even_spread(nodes: UrlNodes) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32) * 1e6
    times = np.arange(300, dtype=np.float32)
    frames = Embeddings(vectors, times_s=times, model=ModelCard("m", "1", "random", 4))
    found = content_of(post(), None, None, frames, None, None).vectors["visual"].frames
    assert found is not None
    assert len(found.times_s) == MAX_FRAMES
    assert (found.times_s[0], found.times_s[-1]) == (0, 299)
    assert np.allclose(np.linalg.norm(found.vectors.astype(np.float32), axis=1), 1, atol=1e-3)
