"""How the clips of a livestream add up: k of the last n windows raise a flag, a lower threshold keeps it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class StreamPolicy(BaseModel):
    """Hysteresis, so that one clip does not flap. Thresholds are those of the categories, per language."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    windows: int = Field(5, ge=1, le=64, description="n: how many of the newest windows a decision looks at.")
    enter: int = Field(2, ge=1, le=64, description="k: windows at or above the threshold that raise a flag.")
    leave_ratio: float = Field(
        0.7, gt=0, le=1, description="A flag stays while k of the n windows reach this share of its threshold."
    )
    reset_after_s: float = Field(
        600.0, gt=0, description="After a pause longer than this the windows before it count no more."
    )

    @model_validator(mode="after")
    def _k_of_n(self) -> StreamPolicy:
        if self.enter > self.windows:
            raise ValueError(f"enter {self.enter} is more than windows {self.windows}: no flag could ever be raised")
        return self
