"""A calibration on disk: one JSON file, versioned, read strictly. Its id changes with data, settings and model."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.review_gate.bounds import Method
from deployments.review_gate.drift import Histogram
from deployments.review_gate.strata import cell_of
from deployments.runtime.artefact_files import read_card, write_whole

FILE = "calibration.json"
MEND = "Make one with `parakh gate calibrate`."
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Open = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CalibrationSettings(_Data):
    target: Open = Field(0.95, description="Recall that each threshold must keep.")
    confidence: Open = Field(0.95, description="Of each threshold's lower bound, one-sided.")
    method: Literal["auto", "exact", "bootstrap"] = Field(
        "auto", description="exact: Clopper-Pearson; bootstrap: over authors, where they have several bad posts."
    )
    resamples: int = Field(1000, ge=100, le=100_000, description="Of the bootstrap.")
    seed: int = Field(0, ge=0, description="Of the bootstrap.")


class Stratum(_Data):
    """One threshold, and what it was calibrated on. Without a threshold every post is reviewed."""

    milestone: int = Field(ge=1)
    name: str  # `hi/video`, or a pool: `*/video`, `*`
    members: tuple[str, ...] = Field(min_length=1)  # the cells it decides on
    threshold: Share | None
    recall: Share | None  # the estimate at the threshold
    recall_lower: Share | None  # its lower bound, at least the target
    method: Method
    rows: int = Field(ge=1)
    weight: float = Field(gt=0, allow_inf_nan=False)  # posts that the rows stand for
    saved: Share  # part of `weight` below the threshold: reviews that are not made
    positives: int = Field(ge=0)
    positives_effective: float = Field(ge=0, allow_inf_nan=False)
    authors: int = Field(ge=0)  # with a bad post
    note: str = ""  # why pooled, why without a threshold


class Calibration(_Data):
    """Thresholds that keep a recall, and the scores' histograms that drift is measured against."""

    format: Literal[1] = 1
    id: str
    model: str
    model_version: str
    data_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    data_from: datetime  # the first reached_at
    data_to: datetime
    rows: int = Field(ge=1)
    settings: CalibrationSettings
    strata: tuple[Stratum, ...] = Field(min_length=1)
    histograms: tuple[Histogram, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wanted = identity(self.data_sha256, self.settings, self.model, self.model_version)
        if self.id != wanted:
            raise ValueError(f"id {self.id} does not belong to this data, model and settings ({wanted})")
        cells = [(stratum.milestone, cell) for stratum in self.strata for cell in stratum.members]
        if len(set(cells)) < len(cells):
            raise ValueError("strata: a cell has two thresholds")
        for stratum in self.strata:
            known = (stratum.threshold, stratum.recall, stratum.recall_lower)
            if any(value is None for value in known) != all(value is None for value in known):
                raise ValueError(f"strata: {stratum.name} lacks its threshold or its recall")
            if stratum.recall_lower is not None and stratum.recall_lower < self.settings.target:
                raise ValueError(f"strata: {stratum.name}'s bound {stratum.recall_lower} is below the target")
        return self

    @cached_property
    def _by_cell(self) -> dict[tuple[int, str], Stratum]:
        return {(stratum.milestone, cell): stratum for stratum in self.strata for cell in stratum.members}

    def lookup(self, language: str | None, content_type: str, milestone: int) -> tuple[str, float | None]:
        """Stratum and threshold of such a post. None where nothing holds the recall: review it.

        A language, type or milestone that the calibration data did not have is such a case: nothing is known of it.
        """
        cell = cell_of(language, content_type)
        stratum = self._by_cell.get((milestone, cell))
        return (cell, None) if stratum is None else (stratum.name, stratum.threshold)


def identity(data_sha256: str, settings: CalibrationSettings, model: str, model_version: str) -> str:
    body = json.dumps([1, data_sha256, settings.model_dump(mode="json"), model, model_version], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Whole or not at all: written beside, synced, renamed."""
    text = json.dumps(calibration.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    write_whole(path, text.encode())


def read_calibration(path: Path) -> Calibration:
    """`path`: the file, or its directory. Raises MissingWeights or WrongWeights with the first thing wrong."""
    return read_card(Calibration, path / FILE if path.is_dir() else path, MEND)
