"""A head on disk is taken whole and only for its own encoders, or refused with the file and the mismatch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from deployments.fusion.artefact import TrainedOn
from deployments.fusion.features import FusionInput
from deployments.fusion.head import FusionHead, random_head
from deployments.runtime.errors import MissingWeights, ModelError, WrongWeights
from deployments.runtime.values import Modality, ModelCard, TextEmbedding

DIMENSIONS = {Modality.VISUAL: 6, Modality.AUDIO: 4, Modality.TEXT: 5}
POST = FusionInput(text=TextEmbedding(np.arange(5, dtype=np.float32), 3, False))


def edit_card(folder: Path, **changes: Any) -> int:
    card = json.loads((folder / "card.json").read_text())
    return (folder / "card.json").write_text(json.dumps(card | changes))


def edit_tensors(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the weights and let the card vouch for them, so that the tensors themselves are looked at."""
    path = folder / "head.safetensors"
    tensors = dict(load_file(path))
    edit(tensors)
    save_file(tensors, path)
    edit_card(folder, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def overwrite(name: str, data: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(data)


def tensors(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    return lambda folder: edit_tensors(folder, edit)


def card(**changes: Any) -> Callable[[Path], Any]:
    return lambda folder: edit_card(folder, **changes)


W = "layers.1.weight"
DAMAGES: dict[str, tuple[Callable[[Path], Any], type[ModelError], str]] = {
    "no weights": (
        lambda f: (f / "head.safetensors").unlink(),
        MissingWeights,
        r"head\.safetensors is missing.*train-fusion",
    ),
    "no card": (lambda f: (f / "card.json").unlink(), MissingWeights, r"card\.json is missing"),
    "empty card": (overwrite("card.json", b""), WrongWeights, r"card\.json: the document"),
    "card is a list": (overwrite("card.json", b"[]"), WrongWeights, r"card\.json: the document"),
    "flipped byte": (
        lambda f: (f / "head.safetensors").write_bytes((f / "head.safetensors").read_bytes()[:-1] + b"\x7f"),
        WrongWeights,
        "sha256",
    ),
    "truncated": (
        lambda f: (f / "head.safetensors").write_bytes((f / "head.safetensors").read_bytes()[:-100]),
        WrongWeights,
        "sha256",
    ),
    "a pickle": (
        lambda f: (
            (f / "head.safetensors").write_bytes(b"\x80\x04N."),
            edit_card(f, weights_sha256=hashlib.sha256(b"\x80\x04N.").hexdigest()),
        ),
        WrongWeights,
        "not a safetensors file",
    ),
    "tensor missing": (tensors(lambda t: t.pop(W)), WrongWeights, f"lacks the tensor {W}"),
    "tensor too many": (tensors(lambda t: t.update(extra=t[W])), WrongWeights, "unknown tensor extra"),
    "tensor transposed": (
        tensors(lambda t: t.update({W: np.ascontiguousarray(t[W].T)})),
        WrongWeights,
        r"layers\.1\.weight has shape \(16, 8\), the card says \(8, 16\)",
    ),
    "tensor of integers": (tensors(lambda t: t.update({W: t[W].astype(np.int32)})), WrongWeights, "is int32"),
    "tensor of NaN": (tensors(lambda t: t.update({W: t[W] * np.nan})), WrongWeights, "not finite"),
    "other dimensions": (
        card(dimensions={"visual": 7, "audio": 4, "text": 5}),
        WrongWeights,
        r"layers\.0\.weight has shape",
    ),
    "missing dimension": (card(dimensions={"visual": 6, "audio": 4}), WrongWeights, "visual, audio and text"),
    "other categories": (card(categories=["safe", "unsafe"]), WrongWeights, "categories"),
    "no temperature": (card(temperature=0), WrongWeights, "temperature"),
    "unknown weights": (card(weights="guessed"), WrongWeights, "weights"),
    "unknown field": (card(colour="red"), WrongWeights, "colour"),
    "other format": (card(format=2), WrongWeights, "format"),
    "encoder contradicts": (
        card(encoders={"text": {"name": "e5", "version": "1", "dimension": 384}}),
        WrongWeights,
        "text encoder gives 384",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_head(DIMENSIONS, 0, hidden=(16, 8)).save(tmp_path / "head")
    return tmp_path / "head"


def test_what_was_saved_loads_and_predicts_the_same(folder: Path) -> None:
    loaded, made = FusionHead.load(folder), random_head(DIMENSIONS, 0, hidden=(16, 8))
    assert loaded.predict(POST) == made.predict(POST)
    assert loaded.card == made.card


def test_half_precision_weights_load(folder: Path) -> None:
    full = FusionHead.load(folder).predict(POST).nsfw_score
    edit_tensors(folder, lambda t: t.update({name: value.astype(np.float16) for name, value in t.items()}))
    assert FusionHead.load(folder).predict(POST).nsfw_score == pytest.approx(full, abs=0.02)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artefact_is_refused_with_file_and_mismatch(folder: Path, damage: str) -> None:
    do, error, message = DAMAGES[damage]
    do(folder)
    with pytest.raises(error, match=message) as caught:
        FusionHead.load(folder)
    assert str(folder) in str(caught.value)


def test_saving_leaves_no_other_files(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "head.safetensors"]


def encoder_card(name: str = "e5", version: str = "1", dimension: int = 5) -> ModelCard:
    return ModelCard(name, version, "pretrained", dimension)


@pytest.fixture
def trained_on_e5(folder: Path) -> FusionHead:
    edit_card(folder, encoders={"text": TrainedOn(name="e5", version="1", dimension=5).model_dump()})
    return FusionHead.load(folder)


def test_the_encoders_it_was_trained_on_are_accepted(trained_on_e5: FusionHead) -> None:
    trained_on_e5.check_encoders({"text": encoder_card()})
    trained_on_e5.check_encoders({})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (encoder_card(dimension=384), "wants text vectors of 5, but e5 gives 384"),
        (encoder_card(name="xlmr"), "trained on text vectors of e5 1; this graph runs xlmr 1"),
        (encoder_card(version="2"), "this graph runs e5 2"),
    ],
)
def test_other_encoders_are_refused(trained_on_e5: FusionHead, given: ModelCard, message: str) -> None:
    with pytest.raises(WrongWeights, match=message):
        trained_on_e5.check_encoders({"text": given})
