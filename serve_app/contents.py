"""What the index is told of a post: its vectors, signatures and digests as `Content`, and matches told back.

judged media and text -> content_of -> Content -> similarity node -> Match -> match_report -> verdict
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from deployments.policy.matches import MatchFact
from deployments.runtime.values import DecodedMedia, Embeddings, ModelCard, TextEmbedding
from deployments.similarity.content import (
    ANY,
    Content,
    ContentVector,
    EncoderId,
    FrameSignatures,
    IndexedModality,
    Match,
    Stage,
    Use,
)
from deployments.similarity.values import FrameVectors
from serve_app.posts import MatchedSegmentReport, MatchReport, Post
from serve_app.similarity import Digests, ListedDigest

MAX_FRAMES = 64
"""Frame vectors kept of a post, evenly spaced, to check the order of frames."""

JOINT_SUFFIX = "-joint"
"""A visual encoder's space shared with text is another space: its vectors carry another encoder's name."""


def content_of(
    post: Post,
    language: str | None,
    media: DecodedMedia | None,
    frames: Embeddings | None,
    sound: Embeddings | None,
    text: TextEmbedding | None,
) -> Content:
    """`language`: a BCP-47 tag; its primary subtag names the partition."""
    return Content(
        id=post.post_id,
        content_type=(post.content_type if media is None else media.content_type).value,
        language=primary_subtag(language),
        created_at=post.created_at.timestamp(),
        duration_s=media.duration_s if media is not None else None,
        sha256=media.sha256 if media is not None else None,
        vectors=dict(_vectors(frames, sound, text)),
        signatures=_signatures(media),
        attributes={"revision": post.revision},  # an older revision never replaces a newer one
    )


def primary_subtag(tag: str | None) -> str:
    """`hi` of hi-Latn-IN; `any` where there is no language."""
    return tag.partition("-")[0].lower() if tag else ANY


def joint_encoder(name: str, version: str) -> EncoderId:
    return EncoderId(name + JOINT_SUFFIX, version)


def digests_of(data: bytes) -> Digests:
    """Blocks for as long as three passes over the bytes take: not for the event loop."""
    return Digests(
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        sha1=hashlib.sha1(data, usedforsecurity=False).hexdigest(),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def match_report(match: Match) -> MatchReport:
    return MatchReport(
        use=match.use,
        id=match.id,
        partition=match.partition or None,
        stage=match.stage,
        cosine=match.score if match.stage is Stage.EMBEDDING else None,
        distance=match.distance,
        threshold=match.threshold,
        segments=[MatchedSegmentReport(**dataclasses.asdict(segment)) for segment in match.segments],
        duration_s=match.duration_s,
        attributes=dict(match.attributes),
    )


def listed_report(listed: ListedDigest) -> MatchReport:
    return MatchReport(
        use=Use.KNOWN_BAD,
        id=listed.digest,
        partition=None,
        stage=Stage.DIGEST,
        cosine=None,
        distance=None,
        threshold=None,
        attributes={"list": listed.list_name, "algorithm": listed.algorithm, "labels": list(listed.labels)},
    )


def same_bytes_report(post_id: str, duration_s: float | None = None) -> MatchReport:
    return MatchReport(
        use=Use.DUPLICATE,
        id=post_id,
        partition=None,
        stage=Stage.SHA256,
        cosine=None,
        distance=None,
        threshold=None,
        duration_s=duration_s,
    )


def fact_of(report: MatchReport, actions: Mapping[str, str]) -> MatchFact:
    """`actions`: post id -> what was decided of it."""
    action = actions.get(report.id) if report.use == Use.DUPLICATE else report.attributes.get("policy")
    return MatchFact(report.use, report.id, report.stage, action)


def _vectors(
    frames: Embeddings | None, sound: Embeddings | None, text: TextEmbedding | None
) -> Iterator[tuple[str, ContentVector]]:
    if frames is not None and frames.model is not None:
        yield IndexedModality.VISUAL, _mean(frames.vectors, frames.times_s, _encoder(frames.model))
        if frames.joint is not None:
            encoder = joint_encoder(frames.model.name, frames.model.version)
            yield IndexedModality.JOINT, _mean(frames.joint, None, encoder)
    if sound is not None and sound.model is not None:
        yield IndexedModality.AUDIO, _mean(sound.vectors, sound.times_s, _encoder(sound.model))
    if text is not None and text.model is not None:
        yield IndexedModality.TEXT, ContentVector(_encoder(text.model), text.vector.astype(np.float32))


def _encoder(card: ModelCard) -> EncoderId:
    return EncoderId(card.name, card.version)


def _mean(vectors: NDArray[np.float32], times_s: NDArray[np.float32] | None, encoder: EncoderId) -> ContentVector:
    frames = None
    if times_s is not None and len(times_s) == len(vectors):
        kept = np.unique(np.linspace(0, len(vectors) - 1, MAX_FRAMES).round().astype(int))
        lengths = np.linalg.norm(vectors[kept], axis=1, keepdims=True)
        unit = vectors[kept] / np.maximum(lengths, np.finfo(np.float32).tiny)  # of unit length they fit into float16
        frames = FrameVectors(unit.astype(np.float16), times_s[kept].astype(np.float32))
    return ContentVector(encoder, vectors.mean(axis=0, dtype=np.float64).astype(np.float32), frames)


def _signatures(media: DecodedMedia | None) -> FrameSignatures | None:
    if media is None or media.pdq_hashes is None or media.pdq_quality is None or media.pdq_times_s is None:
        return None
    return FrameSignatures(media.pdq_hashes, media.pdq_quality, media.pdq_times_s) if len(media.pdq_hashes) else None
