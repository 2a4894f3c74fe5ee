"""The values that travel between nodes. Plain frozen dataclasses of numpy arrays: they pickle, and arrive read-only.

Order of travel: media bytes -> DecodedMedia -> Embeddings / TextEmbedding -> FusionInput (fusion) -> verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
"""Rate of all sound inside the graph."""


class Modality(StrEnum):
    VISUAL = "visual"
    AUDIO = "audio"
    TEXT = "text"


class ContentType(StrEnum):
    VIDEO = "video"
    IMAGE = "image"
    GIF = "gif"
    AUDIO = "audio"
    TEXT = "text"


class Status(StrEnum):
    OK = "ok"
    PARTIAL = "partial"  # media broke off in mid-decode, or only a part was looked at
    MISSING = "missing"  # the post has no such modality
    FAILED = "failed"  # the post has it, and it could not be judged
    SKIPPED = "skipped"  # the post has it, and there was no time to judge it


@dataclass(frozen=True)
class ModalityStatus:
    """What became of one modality of one post: a value, never an exception."""

    status: Status
    reason: str | None = None
    frames: int | None = None  # visual: frames judged
    seconds: float | None = None  # audio: seconds judged
    tokens: int | None = None  # text: tokens judged
    truncated: bool | None = None  # text: the model's limit cut it

    @property
    def usable(self) -> bool:
        return self.status in (Status.OK, Status.PARTIAL)


MISSING = ModalityStatus(Status.MISSING)

Weights = Literal["pretrained", "trained-here", "random"]


@dataclass(frozen=True)
class ModelCard:
    """Which model a node runs, with which weights; stands in every verdict, `/readyz` and `parakh doctor`."""

    name: str
    version: str  # changes whenever the same input could give another vector
    weights: Weights
    dimension: int  # 0 for a model that gives no embedding
    device: str = "cpu"
    precision: str = "fp32"
    sha256: str | None = None  # of the weight file
    note: str = ""  # one sentence: what this model's numbers are worth


@dataclass(frozen=True)
class FrameSpec:
    """Geometry a visual encoder wants its frames in; the media node resizes once, to exactly this.

    `shortest_side`: the shorter side becomes `resize`, then a centre crop (CLIP).
    `stretch`: both sides become `resize`, aspect ignored, then a centre crop (OpenNSFW).
    """

    mode: Literal["shortest_side", "stretch"] = "shortest_side"
    resize: int = 224
    crop: int = 224
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


@dataclass(frozen=True)
class SoundBlock:
    """One contiguous stretch of `DecodedMedia.sound`: where it starts in the media, and which samples it is."""

    start_s: float
    first_sample: int
    samples: int


@dataclass(frozen=True)
class SoundWindow:
    """Some seconds of a livestream's sound. `sound` is an array in-process, a reference into shared memory on Ray."""

    start_s: float  # in the sound it was cut from
    samples: int
    sha256: str  # of the float32 samples, hexadecimal: tells the same sound again
    sound: Any  # (samples,) float32 mono 16 kHz in -1..1

    @property
    def duration_s(self) -> float:
        return self.samples / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class DecodedMedia:
    """What the media node makes of one file. A modality that failed or is absent has status and no array."""

    content_type: ContentType  # what the bytes turned out to be
    container: str  # demuxer or image format name, for instance "mp4" or "jpeg"
    sha256: str  # of the bytes, hexadecimal, as the next two: lists of known files use all three
    sha1: str
    md5: str
    size_bytes: int
    duration_s: float | None  # None for a still image
    visual: ModalityStatus
    audio: ModalityStatus
    frames: NDArray[np.uint8] | None = None  # (n, crop, crop, 3) RGB
    frame_times_s: NDArray[np.float32] | None = None  # (n,) seconds from the start
    sound: NDArray[np.float32] | None = None  # (samples,) mono 16 kHz in -1..1, blocks laid end to end
    sound_blocks: tuple[SoundBlock, ...] = ()  # one for sound heard whole, several for sampled long sound
    pdq_hashes: NDArray[np.uint8] | None = None  # (m, 32) PDQ signatures of whole frames that differ, m <= n
    pdq_quality: NDArray[np.uint8] | None = None  # (m,) 0..100; below 50 a signature says nothing
    pdq_times_s: NDArray[np.float32] | None = None  # (m,) from when on the picture looks like this


@dataclass(frozen=True)
class Embeddings:
    """Vectors of one post's frames, clips of frames or sound examples, in order, not normalised."""

    vectors: NDArray[np.float32]  # (n, dimension)
    evidence: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # name -> (n,), shown in the verdict
    times_s: NDArray[np.float32] | None = None  # (n,) where each frame is, or each clip or example starts
    model: ModelCard | None = None  # which model made them: set by the node
    joint: NDArray[np.float32] | None = None  # (n, joint dimension), visual only: the space shared with text


@dataclass(frozen=True)
class TextEmbedding:
    """Masked mean over the text's tokens, not normalised."""

    vector: NDArray[np.float32]  # (dimension,)
    tokens: int  # tokens the model saw, special ones included
    truncated: bool  # the text was longer than the model's limit
    model: ModelCard | None = None  # which model made it: set by the node


@dataclass(frozen=True)
class NodeStatus:
    """What a node says of itself: rendered by `/readyz` and `parakh doctor`."""

    node: str
    state: Literal["ready", "loading", "sick"]
    reason: str | None = None  # why it is not ready
    last_forward_age_s: float | None = None  # seconds since the last real forward pass that succeeded
    model: ModelCard | None = None
