"""A trained head on disk: a directory with `head.safetensors` and `card.json`, read strictly.

The card says which encoders the head was trained on; a head refuses to read the vectors of others. The card holds
the sha256 of the weights, so the two files of one directory cannot come from two trainings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from deployments.fusion.features import MODALITIES, Floats
from deployments.fusion.mlp import layer_shapes
from deployments.policy.policy import CATEGORIES
from deployments.runtime.artefact_files import read_card, read_whole, write_whole
from deployments.runtime.errors import WrongWeights
from deployments.runtime.values import Modality, ModelCard, Weights

WEIGHTS_FILE, CARD_FILE = "head.safetensors", "card.json"
MEND = "Train one with `parakh train-fusion`, or point the fusion node's `artefact` at a directory that holds one."


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainedOn(_Data):
    """The encoder whose vectors a head reads."""

    name: str
    version: str
    dimension: int = Field(ge=1)


class Pooling(_Data):
    """How window scores join the post's score (see pooling.py)."""

    sharpness: float = Field(4.0, gt=0, le=100)
    offsets: Mapping[Modality, float] = Field(default_factory=dict, description="Log-odds a group must beat; else 0.")


class FusionCard(_Data):
    """Everything about a head that is not a weight."""

    format: Literal[1] = 1
    name: str = "fusion-mlp"
    version: str
    weights: Weights
    dimensions: Mapping[Modality, int]
    hidden: tuple[int, int]
    categories: tuple[str, ...] = CATEGORIES
    temperature: float = Field(1.0, gt=0, le=100, allow_inf_nan=False)
    pooling: Pooling = Pooling()
    encoders: Mapping[Modality, TrainedOn] = Field(default_factory=dict)  # empty: unknown, only dimensions are checked
    data_sha256: str | None = None
    seed: int = 0
    metrics: Mapping[str, Any] = Field(default_factory=dict)
    note: str = ""
    weights_sha256: str

    @model_validator(mode="after")
    def _consistent(self) -> FusionCard:
        if self.categories != CATEGORIES:
            raise ValueError(f"categories are {self.categories}, this version of Parakh has {CATEGORIES}")
        if set(self.dimensions) != set(MODALITIES) or any(d < 1 for d in self.dimensions.values()):
            raise ValueError("dimensions must name visual, audio and text, each at least 1")
        for modality, encoder in self.encoders.items():
            if encoder.dimension != self.dimensions[modality]:
                raise ValueError(f"the {modality} encoder gives {encoder.dimension}, dimensions say otherwise")
        return self

    def model_card(self) -> ModelCard:
        return ModelCard(self.name, self.version, self.weights, 0, sha256=self.weights_sha256, note=self.note)

    def check_encoders(self, cards: Mapping[str, ModelCard]) -> None:
        """`cards`: modality ("visual", "audio", "text") -> the card of the encoder that will feed it.

        Raises WrongWeights at the first that is not the one this head was trained on. A modality without a card
        is one the graph does not serve.
        """
        for key, card in cards.items():
            modality = Modality(key)
            if card.dimension != self.dimensions[modality]:
                raise WrongWeights(
                    f"The fusion head wants {modality} vectors of {self.dimensions[modality]}, "
                    f"but {card.name} gives {card.dimension}."
                )
            trained = self.encoders.get(modality)
            if trained is not None and (trained.name, trained.version) != (card.name, card.version):
                raise WrongWeights(
                    f"The fusion head was trained on {modality} vectors of {trained.name} {trained.version}; "
                    f"this graph runs {card.name} {card.version}. Train a head for it with `parakh train-fusion`."
                )


def dump(tensors: Mapping[str, Floats]) -> tuple[bytes, str]:
    """Weights -> (safetensors bytes, their sha256)."""
    data = save_tensors({name: np.ascontiguousarray(value) for name, value in sorted(tensors.items())})
    return data, hashlib.sha256(data).hexdigest()


def write(directory: Path, card: FusionCard, weights: bytes) -> None:
    """Each file appears whole or not at all; a reader between the two finds the mismatch by the card's sha256."""
    write_whole(directory / WEIGHTS_FILE, weights)
    text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False)
    write_whole(directory / CARD_FILE, (text + "\n").encode())


def read(directory: Path) -> tuple[FusionCard, dict[str, Floats]]:
    """Raises MissingWeights or WrongWeights; the message names the file and the first mismatch."""
    card = read_card(FusionCard, directory / CARD_FILE, MEND)
    path = directory / WEIGHTS_FILE
    data = read_whole(path, MEND)
    if hashlib.sha256(data).hexdigest() != card.weights_sha256:
        raise WrongWeights(f"{path} is not the file its card describes: its sha256 differs from {CARD_FILE}'s.")
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WrongWeights(f"{path} is not a safetensors file.") from error
    return card, _checked(path, tensors, layer_shapes(card.dimensions, card.hidden, len(card.categories)))


def _checked(path: Path, tensors: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    if missing := sorted(set(shapes) - set(tensors)):
        raise WrongWeights(f"{path} lacks the tensor {missing[0]}.")
    if unknown := sorted(set(tensors) - set(shapes)):
        raise WrongWeights(f"{path} holds the unknown tensor {unknown[0]}.")
    for name, shape in shapes.items():
        got = tensors[name]
        if got.shape != shape:
            raise WrongWeights(f"{path}: {name} has shape {got.shape}, the card says {shape}.")
        if got.dtype not in (np.float32, np.float16):
            raise WrongWeights(f"{path}: {name} is {got.dtype}, wanted float32 or float16.")
        if not np.isfinite(got).all():
            raise WrongWeights(f"{path}: {name} holds a number that is not finite.")
    return {name: np.asarray(tensors[name], dtype=np.float32) for name in shapes}
