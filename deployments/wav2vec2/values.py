"""What comes into the node, and what leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deployments.policy.policy import CATEGORIES
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import SAMPLE_RATE_HZ, ModelCard

Samples = NDArray[np.float32]
"""(n,) mono 16 kHz in -1..1."""


@dataclass(frozen=True)
class Clip:
    """Some seconds of a stream's sound."""

    samples: Samples
    language: str | None = None  # BCP-47; None or unknown: the default model judges it
    sample_rate_hz: int = SAMPLE_RATE_HZ  # said so that a wrong rate is refused rather than misheard

    @property
    def sound_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class SpeechSegment:
    """Where the voice gate heard speech, in seconds from the clip's start."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class ClipScores:
    """What the node says of one clip. A clip that was skipped has a reason and no probabilities: none are invented."""

    probabilities: NDArray[np.float32] | None  # (7,) in the order of CATEGORIES, adding up to 1
    labels: Mapping[str, float]  # the checkpoint's own labels, before they were mapped onto categories
    language: str | None  # as the clip said
    model_language: str  # tag of the model that judged it
    fallback: bool  # it is the default model, for want of one of the clip's language
    sound_s: float  # seconds of sound judged
    duration_s: float  # wall-clock time of the passes for this clip; in a batch, of its share
    skipped: Literal["no_speech"] | None = None
    speech_s: float | None = None  # None where the voice gate is off
    segments: tuple[SpeechSegment, ...] = field(default=())
    model: ModelCard | None = None  # None where no model looked at it

    @property
    def category_scores(self) -> dict[str, float] | None:
        """By name; None where skipped."""
        if self.probabilities is None:
            return None
        return {name: float(value) for name, value in zip(CATEGORIES, self.probabilities, strict=True)}

    @property
    def nsfw_score(self) -> float | None:
        """1 - P(safe); None where skipped."""
        return None if self.probabilities is None else float(1.0 - self.probabilities[CATEGORIES.index("safe")])


def invalid_reason(clip: object, max_clip_s: float, min_samples: int = 1) -> InvalidInput | None:
    """None for finite float32 (n,) at 16 kHz of an acceptable length; otherwise the error to answer with."""
    if not isinstance(clip, Clip) or not isinstance(clip.samples, np.ndarray):
        return InvalidInput("A clip must be given as samples with their language.")
    if clip.language is not None and not isinstance(clip.language, str):
        return InvalidInput("A clip's language must be a BCP-47 tag, or nothing.")
    if clip.samples.ndim != 1 or clip.samples.dtype != np.float32:
        return InvalidInput("A clip must be one channel of float32 samples.")
    if clip.sample_rate_hz != SAMPLE_RATE_HZ:
        return InvalidInput(f"A clip must be sampled at {SAMPLE_RATE_HZ} Hz.")
    if len(clip.samples) == 0:
        return InvalidInput("The clip has no sound: it is 0 s long.")
    if len(clip.samples) < min_samples:
        return InvalidInput(f"The clip is too short to judge: {len(clip.samples)} samples, at least {min_samples}.")
    if clip.sound_s > max_clip_s:
        return InvalidInput(f"The clip is {clip.sound_s:.1f} s long; at most {max_clip_s:g} s are accepted.")
    if not np.isfinite(clip.samples).all():
        return InvalidInput("The clip holds samples that are not finite numbers.")
    return None
