"""What counts as a match, by use: thresholds, and how much of two videos must agree.

The defaults are starting points; cosines of another encoder mean something else.
"""

from __future__ import annotations

from pydantic import Field

from deployments.similarity.settings import Frozen


class Thresholds(Frozen):
    """The worst score that is a match; none: this use does not compare such vectors."""

    visual: float | None = Field(None, ge=-1, le=1, description="Cosine of mean frame vectors.")
    audio: float | None = Field(None, ge=-1, le=1, description="Cosine of mean sound vectors.")
    text: float | None = Field(None, ge=-1, le=1, description="Cosine of text vectors.")
    joint: float | None = Field(None, ge=-1, le=1, description="Cosine in the space shared with text.")
    pdq: int | None = Field(None, ge=0, le=127, description="Differing bits of 256 between two frames' signatures.")

    def of(self, modality: str) -> float | None:
        value: float | None = getattr(self, modality, None)
        return value


class UseSettings(Frozen):
    """One reason to compare content."""

    enabled: bool = Field(True, description="Off: the use finds nothing and costs nothing.")
    thresholds: Thresholds = Field(default_factory=Thresholds, description="What counts, for every encoder.")
    by_encoder: dict[str, Thresholds] = Field(
        default_factory=dict, description="Thresholds of one encoder, by its name: cosines do not carry over."
    )
    covered_share: float = Field(
        0.0, ge=0, le=1, description="Share of the longer one that must match, in the order of its frames or sounds."
    )
    matched_frames: int = Field(
        1, ge=1, description="Frames of two videos that must match in their order; 1: any frame, in any order."
    )
    duration_tolerance: float = Field(
        0.1, ge=0, le=1, description="How far durations may differ where no frames are kept to compare: a share."
    )

    def threshold(self, modality: str, encoder: str) -> float | None:
        return self.by_encoder.get(encoder, self.thresholds).of(modality)


def known_bad() -> UseSettings:
    return UseSettings(thresholds=Thresholds(pdq=31))


def protected() -> UseSettings:
    return UseSettings(thresholds=Thresholds(visual=0.95, audio=0.97, text=0.98, pdq=31), matched_frames=2)


def duplicate() -> UseSettings:
    return UseSettings(
        thresholds=Thresholds(visual=0.97, audio=0.98, text=0.98, pdq=31), covered_share=0.5, matched_frames=3
    )
