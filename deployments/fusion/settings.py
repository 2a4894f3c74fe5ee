"""Settings of the fusion node: which artefact it runs, and how it looks for short bad stretches."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

LOCAL_ARTEFACT = Path(__file__).parent / "artefacts" / "local"


class WindowSettings(BaseModel):
    """The stretches of a post that are scored on their own, beside the post as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frame_windows: tuple[int, ...] = Field(
        (1, 3), description="Lengths in consecutive frames; 1 finds a flash, 3 what single frames only hint at."
    )
    sound_windows: tuple[int, ...] = Field((1, 5), description="Lengths in consecutive sound examples of 0.96 s.")
    segment_floor: float = Field(0.95, gt=0, le=1, description="A window becomes part of a segment at this score.")
    max_segments: int = Field(32, ge=1, description="The strongest segments a verdict lists.")

    @field_validator("frame_windows", "sound_windows")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)) or any(length < 1 for length in value):
            raise ValueError("window lengths must be at least 1 and rise")
        return value


class FusionSettings(BaseModel):
    """The fusion node's own settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artefact: Path = Field(LOCAL_ARTEFACT, description="Directory with head.safetensors and card.json.")
    windows: WindowSettings = Field(
        default_factory=WindowSettings, description="How short bad stretches are looked for."
    )
