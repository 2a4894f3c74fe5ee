"""How a verdict comes about: from scores and matches, from a hash list alone, or from an exact original's."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from deployments.fusion.head import FusionOutput
from deployments.policy.policy import Policy, PolicyDecision
from deployments.runtime.errors import ParakhError
from deployments.runtime.values import (
    MISSING,
    DecodedMedia,
    Embeddings,
    Modality,
    ModalityStatus,
    Status,
    TextEmbedding,
)
from serve_app.contents import fact_of
from serve_app.language import identify_language
from serve_app.lookup import Found, reuse_of, reused_matches
from serve_app.posts import (
    Decision,
    EvidenceReport,
    LanguageReport,
    MatchReport,
    ModalityReport,
    ModelReport,
    Post,
    SegmentReport,
    SimilarityReport,
    Verdict,
)

NOT_JUDGED = "not judged: its bytes stand on a list of known-bad content"


@dataclass
class Judged:
    """What is known of one post while it passes through."""

    without: frozenset[Modality] = frozenset()  # what there is no time for
    listed: list[MatchReport] = field(default_factory=list)  # entries of hash lists that its bytes stand on
    unlisted: ParakhError | None = None  # why the hash lists could not be asked about bytes that came by URL
    media: DecodedMedia | None = None
    frames: Embeddings | None = None
    sound: Embeddings | None = None
    text: TextEmbedding | None = None
    statuses: dict[Modality, ModalityStatus] = field(default_factory=lambda: dict.fromkeys(Modality, MISSING))
    errors: list[Exception] = field(default_factory=list)  # of the encoders that failed
    models: dict[str, ModelReport] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[step] = round(time.perf_counter() - started, 4)


def judged_verdict(
    policy: Policy, post: Post, caption: str, judged: Judged, output: FusionOutput, found: Found
) -> Verdict:
    """Scores by the policy, raised by what was matched."""
    language = language_of(post, caption)
    decided = policy.decide(
        output.category_scores,
        language.tag if language else None,
        judged.statuses,
        segments=[(segment.category, segment.score) for segment in output.segments],
    )
    decided = policy.with_matches(decided, [fact_of(match, found.actions) for match in found.matches])
    if found.status.status == "failed":
        decided = policy.without_search(decided)
    now = datetime.now(UTC)
    return Verdict(
        post_id=post.post_id,
        revision=post.revision,
        nsfw_score=output.nsfw_score,
        category_scores=output.category_scores,
        severity=_severity(policy, output.category_scores),
        created_at=post.created_at,
        decided_at=now,
        age_s=_age_s(post, now),
        language=language,
        decision=_decision(decided),
        modalities={m: ModalityReport(**dataclasses.asdict(s)) for m, s in judged.statuses.items()},
        segments=[SegmentReport(**dataclasses.asdict(segment)) for segment in output.segments],
        evidence=_evidence(judged.frames),
        matches=found.matches,
        similarity=found.status,
        models=judged.models,
        media_sha256=judged.media.sha256 if judged.media else None,
        timings_s=judged.timings_s,
    )


def known_bad_verdict(
    policy: Policy, post: Post, caption: str, listed: list[MatchReport], sha256: str | None
) -> Verdict:
    """No model has looked: the scores are what the policy says that known-bad content counts as."""
    scores = policy.known_bad_scores()
    now = datetime.now(UTC)
    skipped = {Modality.TEXT} if caption else set()
    skipped |= {Modality.AUDIO} if post.content_type == "audio" else {Modality.VISUAL}
    return Verdict(
        post_id=post.post_id,
        revision=post.revision,
        nsfw_score=1 - scores["safe"],
        category_scores=scores,
        severity=_severity(policy, scores),
        created_at=post.created_at,
        decided_at=now,
        age_s=_age_s(post, now),
        language=language_of(post, caption),
        decision=_decision(policy.known_bad([fact_of(match, {}) for match in listed])),
        modalities={
            m: ModalityReport(status=Status.MISSING, reason=NOT_JUDGED if m in skipped else None) for m in Modality
        },
        segments=[],
        evidence=[],
        matches=listed,
        similarity=SimilarityReport(status="ok"),
        models={},
        media_sha256=sha256,
    )


def reused_verdict(post: Post, original: Verdict) -> Verdict:
    """The original's, for a post of the same bytes and words."""
    now = datetime.now(UTC)
    return original.model_copy(
        update={
            "post_id": post.post_id,
            "revision": post.revision,
            "created_at": post.created_at,
            "decided_at": now,
            "age_s": _age_s(post, now),
            "matches": reused_matches(original, post.post_id),
            "reused_from": reuse_of(original),
            "timings_s": {},
        }
    )


def language_of(post: Post, caption: str) -> LanguageReport | None:
    if post.language is not None:
        return LanguageReport(tag=post.language, identified=False)
    return identify_language(caption) if caption else None


def _severity(policy: Policy, scores: Mapping[str, float]) -> dict[str, int]:
    return {name: policy.severity_of(score) for name, score in scores.items() if name != "safe"}


def _decision(decided: PolicyDecision) -> Decision:
    return Decision(**dataclasses.asdict(decided))


def _age_s(post: Post, now: datetime) -> float:
    return max(0.0, (now - post.created_at).total_seconds())


def _evidence(frames: Embeddings | None) -> list[EvidenceReport]:
    if frames is None:
        return []
    reports = []
    for name, values in frames.evidence.items():
        peak = int(np.argmax(values))
        at_s = None if frames.times_s is None else float(frames.times_s[peak])
        reports.append(EvidenceReport(name=name, max=float(values[peak]), mean=float(np.mean(values)), at_s=at_s))
    return reports
