"""The small network's files, as they ship beside the code: weights, and the card of what they are worth."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from deployments.runtime.errors import MissingWeights, WrongWeights
from deployments.runtime.values import Weights

WEIGHTS_NAME = "vggish-small.safetensors"
CARD_NAME = "vggish-small.json"


class SmallCard(BaseModel):
    """The part of the card a node needs; the rest is the training report."""

    model_config = ConfigDict(extra="ignore")

    name: str
    version: str
    weights: Weights
    sha256: str
    note: str


def artefacts() -> Path:
    return Path(__file__).parent / "artefacts"


def read_card(folder: Path) -> SmallCard:
    """Raises MissingWeights or WrongWeights, naming the file."""
    path = folder / CARD_NAME
    if not path.is_file():
        raise MissingWeights(f"{path}: no such card; run `python -m deployments.vggish.train_small`")
    try:
        return SmallCard(**json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise WrongWeights(f"{path}: not a card of the small network") from None
