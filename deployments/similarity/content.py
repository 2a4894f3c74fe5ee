"""What the similarity node is asked and what it answers: content in, matches out.

Words: a *bank* is a set of partitions with one purpose: `posts` (everything published), `protected` (copyright
references), `negative` (never a match), `known-bad` (hash lists), `shown` (what a feed showed lately). A *use* is why
one searches: it picks banks, stages and thresholds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput
from deployments.similarity.values import Filter, FrameVectors

ANY = "any"
"""Language of a partition that holds every language, and of posts whose language is unknown."""

_PART = re.compile(r"[a-z][a-z0-9-]{0,31}")


class Bank(StrEnum):
    POSTS = "posts"
    PROTECTED = "protected"
    NEGATIVE = "negative"
    KNOWN_BAD = "known-bad"
    SHOWN = "shown"


class Use(StrEnum):
    KNOWN_BAD = "known_bad"
    PROTECTED = "protected"
    DUPLICATE = "duplicate"
    SIMILAR = "similar"


class Stage(StrEnum):
    """How a match was found, cheapest and surest first."""

    SHA256 = "sha256"  # the same bytes
    DIGEST = "digest"  # MD5, SHA-1 or SHA-256 on a hash list
    PDQ = "pdq"  # perceptual hash of frames
    EMBEDDING = "embedding"


class IndexedModality(StrEnum):
    """What of a post a partition indexes."""

    VISUAL = "visual"
    JOINT = "joint"  # the visual encoder's space shared with text
    AUDIO = "audio"
    TEXT = "text"
    PDQ = "pdq"  # 256-bit signatures of frames, Hamming


@dataclass(frozen=True, order=True)
class PartitionKey:
    """Written `bank.language.content_type.modality`, for instance `posts.hi.video.visual`."""

    bank: str
    language: str  # lower-case primary subtag, or `any`
    content_type: str  # video, image, gif, audio, text, or `any`
    modality: str

    def __str__(self) -> str:
        return f"{self.bank}.{self.language}.{self.content_type}.{self.modality}"

    @classmethod
    def parse(cls, text: str) -> PartitionKey:
        """Raises InvalidInput."""
        parts = text.split(".")
        if len(parts) != 4 or not all(_PART.fullmatch(part) for part in parts):
            raise InvalidInput(
                "A partition is named bank.language.content_type.modality, for instance posts.hi.video.visual.",
                param="partition",
            )
        return cls(*parts)


@dataclass(frozen=True)
class EncoderId:
    """Which encoder made a vector. A partition's generation holds vectors of exactly one."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


PDQ_ENCODER = EncoderId("pdq", "1")


@dataclass(frozen=True)
class ContentVector:
    """One modality of one post: the mean vector that is indexed, and the frames' beside it."""

    encoder: EncoderId
    vector: NDArray[np.float32]  # (d,), not necessarily normalised
    frames: FrameVectors | None = None


@dataclass(frozen=True)
class FrameSignatures:
    """PDQ of frames. Frames of too little detail (quality below 50 of 100) say nothing and never match."""

    hashes: NDArray[np.uint8]  # (n, 32)
    quality: NDArray[np.uint8]  # (n,) 0..100
    times_s: NDArray[np.float32]  # (n,)


@dataclass(frozen=True)
class Content:
    """What the index knows, or is asked, of one post (or reference): no media, no text, only what was made of them."""

    id: str
    content_type: str
    language: str = ANY
    created_at: float = 0.0  # Unix seconds
    duration_s: float | None = None
    sha256: str | None = None
    vectors: Mapping[str, ContentVector] = field(default_factory=dict)  # IndexedModality -> vector
    signatures: FrameSignatures | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)  # kept with the items, JSON


@dataclass(frozen=True)
class MatchedSegment:
    """Seconds of the query that match seconds of the other content; frame order was checked."""

    start_s: float
    end_s: float
    other_start_s: float
    other_end_s: float


@dataclass(frozen=True)
class Match:
    """One piece of content that matches, and why: the whole explanation in one value."""

    use: Use
    id: str  # of the post, reference or list entry that matches
    partition: str
    stage: Stage
    score: float | None  # cosine (embedding), None for the same bytes
    distance: float | None  # Hamming bits (pdq), None elsewhere
    threshold: float | None  # what the score or distance was held against
    segments: tuple[MatchedSegment, ...] = ()
    duration_s: float | None = None  # of the other content
    attributes: Mapping[str, Any] = field(default_factory=dict)  # as indexed with the other content


@dataclass(frozen=True)
class MatchAnswer:
    """Matches of all uses asked for, best first within a use; what could not be searched is said, never hidden."""

    matches: tuple[Match, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)  # use -> why it was not (wholly) answered
    truncated: bool = False  # there may be more matches than are told


@dataclass(frozen=True)
class SearchRequest:
    """k-NN by vector over the partitions that fit. Languages and content types in `filter` pick partitions, too."""

    encoder: EncoderId
    vector: NDArray[Any]
    modality: str
    bank: str = Bank.POSTS
    k: int = 10
    threshold: float | None = None
    filter: Filter = field(default_factory=Filter)
    exact: bool = False
    partition: str | None = None  # only this one


@dataclass(frozen=True)
class SearchHit:
    id: str
    partition: str
    score: float
    created_at: float
    language: str
    content_type: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
