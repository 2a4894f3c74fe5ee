"""Settings of the review gate's node: whose thresholds it keeps, and whether a tree scores."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from deployments.runtime.node import NodeSettings


class GateSettings(NodeSettings):
    """Without a tree and without a calibration the gate works, and sends every post to review."""

    max_batch_weight: int = Field(256, ge=1, description="Most posts decided in one batch.")
    max_queue_items: int = Field(4096, ge=1, description="Posts waiting beyond the running batch; more answer 429.")
    tree: Path | None = Field(
        None, description="Directory of a tree made by `parakh gate train`, its calibration in it; none: score only."
    )
    calibration: Path | None = Field(
        None, description="File of `parakh gate calibrate` for the score alone; none: every post is reviewed."
    )
    explain: Literal["review", "all", "none"] = Field(
        "review", description="Which decisions of a tree tell their contributions; each takes 0.1 ms or more."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> GateSettings:
        if self.tree is not None and self.calibration is not None:
            raise ValueError("calibration: a tree brings its own; give one of `tree` and `calibration`")
        return self
