"""A trained tree on disk: a directory with `model.txt`, `calibration.json` and `card.json`, read strictly.

The card holds the sha256 of both other files, so that no file of one training meets one of another; and the features
in order with the version of their definitions, so that a tree never reads numbers that mean something else by now.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.review_gate.artefact import FILE as CALIBRATION_FILE
from deployments.review_gate.artefact import Calibration, read_calibration, write_calibration
from deployments.review_gate.features import FEATURES, FEATURES_VERSION, Levels
from deployments.review_gate.spans import Span
from deployments.review_gate.trees import Base, Platt, Trees
from deployments.runtime.artefact_files import read_card, read_whole, write_whole
from deployments.runtime.errors import InvalidInput, WrongWeights
from deployments.runtime.values import ModelCard

MODEL_FILE, CARD_FILE = "model.txt", "card.json"
TREE = "gate-tree"
MEND = "Train one with `parakh gate train`, or point the gate's `tree` at a directory that holds one."
NOTE = "probability that a moderator discards the post; worth what the decisions it was trained on are worth"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlattCard(_Data):
    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)


class BaseCard(_Data):
    slope: float = Field(ge=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)
    centre: float = Field(allow_inf_nan=False)


class TreeCard(_Data):
    """Everything about a tree that is not a split."""

    format: Literal[1] = 1
    name: str = TREE
    version: str
    features: tuple[str, ...] = FEATURES
    features_version: int = FEATURES_VERSION
    languages: tuple[str, ...]
    content_types: tuple[str, ...]
    base: BaseCard
    platt: PlattCard
    trees: int = Field(ge=1)
    lightgbm: str = Field(description="Version that trained it; another major version is refused.")
    spans: Mapping[str, Span]
    data_sha256: str
    settings: Mapping[str, Any] = Field(default_factory=dict)
    metrics: Mapping[str, Any] = Field(default_factory=dict)
    note: str = NOTE
    sha256: Mapping[str, str] = Field(description="File -> sha256.")

    @model_validator(mode="after")
    def _of_this_version(self) -> TreeCard:
        if self.features != FEATURES:
            raise ValueError(f"features are {list(self.features)}, this version of Parakh computes {list(FEATURES)}")
        if self.features_version != FEATURES_VERSION:
            raise ValueError(
                f"features_version is {self.features_version}, this version of Parakh computes {FEATURES_VERSION}"
            )
        if set(self.sha256) != {MODEL_FILE, CALIBRATION_FILE}:
            raise ValueError(f"sha256 must name {MODEL_FILE} and {CALIBRATION_FILE}")
        return self

    @property
    def levels(self) -> Levels:
        return Levels(self.languages, self.content_types)

    def model_card(self) -> ModelCard:
        return ModelCard(self.name, self.version, "trained-here", 0, sha256=self.sha256[MODEL_FILE], note=self.note)


@dataclasses.dataclass(frozen=True)
class TreeArtefact:
    card: TreeCard
    trees: Trees
    calibration: Calibration


def version_of(text: str, levels: Levels, base: Base, platt: Platt) -> str:
    """Changes whenever the same post could get another probability."""
    maps = [dataclasses.asdict(base), dataclasses.asdict(platt)]
    told = json.dumps([FEATURES_VERSION, text, levels.languages, levels.content_types, maps])
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def check_free(directory: Path, *, replace: bool) -> None:
    """Raises InvalidInput where the directory holds something that must not be replaced."""
    if directory.exists() and not directory.is_dir():
        raise InvalidInput(f"{directory} is not a directory.")
    if not replace and directory.is_dir() and any(directory.iterdir()):
        raise InvalidInput(f"{directory} is not empty; give another directory, or --replace.")


def write(directory: Path, text: str, calibration: Calibration, **card: Any) -> TreeCard:
    """`card`: the fields of TreeCard but the hashes. Each file appears whole or not at all; a reader between the files
    finds the mismatch by the card's sha256."""
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / MODEL_FILE, text.encode())
    write_calibration(directory / CALIBRATION_FILE, calibration)
    files = (MODEL_FILE, CALIBRATION_FILE)
    whole = TreeCard(**card, sha256={name: _sha256((directory / name).read_bytes()) for name in files})
    described = json.dumps(whole.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    write_whole(directory / CARD_FILE, described.encode())
    return whole


def read(directory: Path) -> TreeArtefact:
    """Raises MissingWeights or WrongWeights; the message names the file and the first mismatch."""
    card = read_card(TreeCard, directory / CARD_FILE, MEND)
    _check_lightgbm(card, directory / CARD_FILE)
    data = {name: read_whole(directory / name, MEND) for name in card.sha256}
    for name, digest in card.sha256.items():
        if _sha256(data[name]) != digest:
            raise WrongWeights(f"{directory / name} is not the file its card describes: its sha256 differs.")
    base, platt = Base(**card.base.model_dump()), Platt(**card.platt.model_dump())
    text = data[MODEL_FILE].decode()
    if version_of(text, card.levels, base, platt) != card.version:
        raise WrongWeights(f"{directory / CARD_FILE}: version: is not that of this model, its levels and its maps.")
    calibration = read_calibration(directory / CALIBRATION_FILE)
    check_calibrates(calibration, card.name, card.version, directory / CALIBRATION_FILE)
    return TreeArtefact(card, Trees(text, card.levels, base, platt, name=card.name, version=card.version), calibration)


def check_calibrates(calibration: Calibration, name: str, version: str, path: Path) -> None:
    """Raises WrongWeights where the thresholds are of another model's scores."""
    if (calibration.model, calibration.model_version) != (name, version):
        raise WrongWeights(
            f"{path}: model: its thresholds are for {calibration.model} {calibration.model_version}, "
            f"but the gate scores with {name} {version}."
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_lightgbm(card: TreeCard, path: Path) -> None:
    from lightgbm import __version__ as installed

    if card.lightgbm.split(".")[0] != installed.split(".")[0]:
        raise WrongWeights(f"{path}: lightgbm: trained with {card.lightgbm}, but {installed} is installed.")
