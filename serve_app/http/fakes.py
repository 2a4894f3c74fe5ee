"""A moderator without models: scores follow from words of the caption, and it can be told to be slow or to fail."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from deployments.runtime.errors import NotFound
from deployments.runtime.values import Embeddings, Modality, ModelCard, NodeStatus, Status, TextEmbedding
from deployments.similarity.content import Content, ContentVector, EncoderId
from serve_app.judgement import Judgement
from serve_app.posts import Decision, MediaSource, ModalityReport, ModelReport, Post, SegmentReport, Verdict

CATEGORIES = ("safe", "nudity", "sexual", "violence", "abusive", "hate", "dangerous")
NODES = ("media", "clip", "vggish", "xlmr", "fusion")
_CARD = ModelCard("fake", "1", "random", 8)


@dataclass
class FakeModerator:
    """A caption that names a category gets 0.9 of it and is blocked."""

    delay_s: float = 0.0
    errors: list[Exception] = field(default_factory=list)  # raised one by one, before anything is answered
    joint_space: bool = True
    policy_version: str = "fake-1"
    moderated: list[tuple[Post, MediaSource | None]] = field(default_factory=list)
    waited: list[bool] = field(default_factory=list)  # `wait_for_nodes` of each call
    sick: dict[str, str] = field(default_factory=dict)  # node -> reason
    status_calls: int = 0

    async def moderate(
        self,
        post: Post,
        media: MediaSource | None,
        *,
        deadline_s: float | None = None,
        wait_for_nodes: bool = False,
    ) -> Verdict:
        return (await self.judge(post, media, deadline_s=deadline_s, wait_for_nodes=wait_for_nodes)).verdict

    async def judge(
        self,
        post: Post,
        media: MediaSource | None,
        *,
        deadline_s: float | None = None,
        wait_for_nodes: bool = False,
        without: frozenset[Modality] = frozenset(),
    ) -> Judgement:
        self.moderated.append((post, media))
        self.waited.append(wait_for_nodes)
        await asyncio.sleep(self.delay_s)
        if self.errors:
            raise self.errors.pop(0)
        return Judgement(verdict_of(post, media, self.policy_version), content_of_fake(post, media))

    async def describe(self, post: Post, media: MediaSource | None) -> Content:
        if self.errors:
            raise self.errors.pop(0)
        return content_of_fake(post, media)

    async def embed_texts(self, model: str, texts: list[str]) -> list[TextEmbedding]:
        if model == "clip-text" and not self.joint_space:
            raise NotFound
        return [TextEmbedding(_vector(text.encode()), len(text.split()) + 2, truncated=False) for text in texts]

    async def embed_images(self, images: list[bytes]) -> list[Embeddings]:
        return [Embeddings(_vector(image)[None, :]) for image in images]

    async def status(self) -> list[NodeStatus]:
        self.status_calls += 1
        await asyncio.sleep(self.delay_s)
        return [
            NodeStatus(node, "sick" if node in self.sick else "ready", self.sick.get(node), 0.5, _CARD)
            for node in NODES
        ]

    def models(self) -> Mapping[str, ModelReport]:
        return dict.fromkeys(
            ("clip", "vggish", "xlmr", "fusion"), ModelReport(name="fake", version="1", weights="random")
        )

    def dimension(self, node: str) -> int | None:
        return None


def verdict_of(post: Post, media: MediaSource | None, policy_version: str) -> Verdict:
    named = next((name for name in CATEGORIES[1:] if name in (post.caption or "")), None)
    scores = dict.fromkeys(CATEGORIES, 0.1 / 6) | {named or "safe": 0.9}
    decided_at = datetime.now(UTC)
    seen = Status.MISSING if media is None else Status.OK
    return Verdict(
        post_id=post.post_id,
        revision=post.revision,
        nsfw_score=1 - scores["safe"],
        category_scores=scores,
        severity={name: 6 if name == named else 0 for name in CATEGORIES[1:]},
        created_at=post.created_at,
        decided_at=decided_at,
        age_s=(decided_at - post.created_at).total_seconds(),
        language=None,
        decision=_decision(named, policy_version),
        modalities={
            Modality.VISUAL: ModalityReport(status=seen, frames=None if media is None else 1),
            Modality.AUDIO: ModalityReport(status=Status.MISSING),
            Modality.TEXT: ModalityReport(status=Status.OK if post.caption else Status.MISSING),
        },
        segments=[SegmentReport(start_s=0, end_s=1, modality=Modality.VISUAL, category=named, score=0.9)]
        if named and media
        else [],
        evidence=[],
        models={"xlmr": ModelReport(name="fake", version="1", weights="random")},
        media_sha256=hashlib.sha256(media.data).hexdigest() if media and media.data else None,
    )


def content_of_fake(post: Post, media: MediaSource | None) -> Content:
    """A vector that follows from the bytes of each modality."""
    vectors = {}
    if media is not None and media.data is not None:
        vectors["visual"] = ContentVector(EncoderId("fake", "1"), _vector(media.data))
    if post.caption:
        vectors["text"] = ContentVector(EncoderId("fake", "1"), _vector(post.caption.encode()))
    return Content(
        id=post.post_id,
        content_type=post.content_type.value,
        created_at=post.created_at.timestamp(),
        sha256=hashlib.sha256(media.data).hexdigest() if media and media.data else None,
        vectors=vectors,
    )


def _decision(category: str | None, policy_version: str) -> Decision:
    return Decision(
        action="block" if category else "allow",
        category=category,
        threshold=0.8 if category else None,
        policy_version=policy_version,
        reason=f"{category} is above its threshold" if category else "nothing is above its threshold",
    )


def _vector(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    digest = np.frombuffer(hashlib.sha256(data).digest()[:8], dtype=np.uint8)
    return digest.astype(np.float32) - 127.5
