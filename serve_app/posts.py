"""A post as it comes in, and the verdict that goes out: the two shapes every door shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from deployments.runtime.values import ContentType, Modality, Status, Weights

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")  # the shape of a BCP-47 tag (RFC 5646), not its registry
MAX_CLOCK_SKEW = timedelta(minutes=5)

Id = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\s/\x00-\x1f\x7f]+$")]


def language_tag(value: str) -> str:
    """Raises ValueError for what has not the shape of a BCP-47 tag."""
    if value is not None and not _LANGUAGE.fullmatch(value):
        raise ValueError("must be a BCP-47 language tag such as 'hi' or 'en-IN'")
    return value


def moment(value: datetime) -> datetime:
    """In UTC. Raises ValueError for a time without a zone, in the future, or outside the calendar."""
    if value.tzinfo is None:
        raise ValueError("must carry a time zone, for instance 2026-11-21T10:00:00Z")
    try:
        value = value.astimezone(UTC)
    except OverflowError:  # next to year 1 or 9999, moved to UTC
        raise ValueError("lies outside the calendar") from None
    if value > datetime.now(UTC) + MAX_CLOCK_SKEW:
        raise ValueError("lies in the future")
    return value


Moment = Annotated[datetime, AfterValidator(moment)]
LanguageTag = Annotated[str, AfterValidator(language_tag)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Post(Frozen):
    """What a user published, without its media."""

    post_id: Id = Field(description="The client's own id: up to 128 characters, no white space or slash.")
    author_id: Id = Field(description="Who published it.")
    content_type: ContentType
    created_at: Moment = Field(description="When it was published, with a time zone (RFC 3339).")
    language: LanguageTag | None = Field(None, description="BCP-47 tag; identified from the caption where missing.")
    caption: str | None = Field(None, max_length=100_000, description="The post's text.")
    revision: int = Field(0, ge=0, le=2**31 - 1, description="Rises by one each time the author edits the post.")


class MediaSource(Frozen):
    """Where a post's media comes from: exactly one of bytes or a URL."""

    data: bytes | None = None
    url: str | None = None


class Decision(Frozen):
    action: str  # allow, review or block
    category: str | None  # the category whose threshold decided; None where nothing was above one
    threshold: float | None
    policy_version: str
    reason: str  # one sentence a moderator can read
    use: str | None = None  # known_bad, protected or duplicate, where a match decided and not a score
    legal_hold: bool = False  # the media is evidence: kept, whatever retention and erasure say
    no_preview: bool = False  # no moderator is shown it


class ModalityReport(Frozen):
    """A ModalityStatus as the API shows it; None fields are left out."""

    status: Status
    reason: str | None = None
    frames: int | None = None
    seconds: float | None = None
    tokens: int | None = None
    truncated: bool | None = None


class SegmentReport(Frozen):
    start_s: float
    end_s: float
    modality: Modality
    category: str
    score: float


class EvidenceReport(Frozen):
    """A per-frame number that is not a category score, for instance OpenNSFW's own probability."""

    name: str
    max: float
    mean: float
    at_s: float | None = None  # where the maximum is


class ModelReport(Frozen):
    name: str
    version: str
    weights: Weights
    note: str = ""


class LanguageReport(Frozen):
    tag: str
    identified: bool  # True where the client gave none and it was identified from the caption
    confidence: float | None = None


class MatchedSegmentReport(Frozen):
    """Seconds of this post that match seconds of the other content."""

    start_s: float
    end_s: float
    other_start_s: float
    other_end_s: float


class MatchReport(Frozen):
    """Other content that matches, and why: enough to act on without another question."""

    use: str  # known_bad, protected, duplicate or similar
    id: str  # of the post, reference or list entry
    partition: str | None  # where it was found; None where the records knew it by its digest
    stage: str  # sha256, digest, pdq or embedding: how it was found
    cosine: float | None  # embedding
    distance: float | None  # differing bits of 256 (pdq)
    threshold: float | None  # what cosine or distance was held against
    segments: list[MatchedSegmentReport] = []
    duration_s: float | None = None  # of the other content
    attributes: Mapping[str, Any] = {}  # what is kept with it, for instance owner and policy of a reference


class SimilarityReport(Frozen):
    """Whether matches were looked for: an empty list of matches means none only where the status is ok."""

    status: Literal["ok", "failed", "off"]
    reason: str | None = None


class ReuseReport(Frozen):
    """The post whose verdict stands for this one, because both are the same bytes and words."""

    post_id: str
    revision: int


class Verdict(Frozen):
    """What was decided of one post at one revision under one policy version."""

    post_id: str
    revision: int
    nsfw_score: float  # 1 - P(safe)
    category_scores: Mapping[str, float]  # seven, summing to 1
    severity: Mapping[str, int]  # 0, 2, 4 or 6 for each category but `safe`, by the policy's steps
    created_at: datetime
    decided_at: datetime
    age_s: float  # decided_at - created_at
    language: LanguageReport | None
    decision: Decision
    modalities: Mapping[Modality, ModalityReport]
    segments: list[SegmentReport]
    evidence: list[EvidenceReport]
    matches: list[MatchReport] = []
    similarity: SimilarityReport = SimilarityReport(status="off")
    reused_from: ReuseReport | None = None
    models: Mapping[str, ModelReport]  # node name -> model
    media_sha256: str | None = None
    timings_s: Mapping[str, float] = {}  # step -> seconds, as seen by the pipeline
