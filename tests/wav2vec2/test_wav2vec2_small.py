"""The small model that ships with the code: it tells stand-in sounds apart, and its card says that this is all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.policy.policy import CATEGORIES
from deployments.runtime.errors import MissingWeights
from deployments.runtime.stand_in_sounds import sound
from deployments.runtime.weights import file_sha256
from deployments.wav2vec2 import artefact
from deployments.wav2vec2.artefact import small_directory
from deployments.wav2vec2.encoder import Wav2Vec2Classifier
from deployments.wav2vec2.settings import SMALL, Wav2Vec2Settings
from deployments.wav2vec2.train_small import Recipe, train, write
from deployments.wav2vec2.values import Clip, ClipScores


@pytest.fixture(scope="module")
def small() -> Wav2Vec2Classifier:
    """As the default settings load it."""
    classifier = Wav2Vec2Classifier(Wav2Vec2Settings())
    classifier.load()
    return classifier


@pytest.mark.parametrize("seconds", [1.0, 6.0])
def test_it_tells_fresh_stand_in_sounds_apart(small: Wav2Vec2Classifier, seconds: float) -> None:
    random = np.random.default_rng(int(seconds))
    wanted = [category for category in CATEGORIES for _ in range(6)]
    found = []
    for category in wanted:
        (scores,) = small.encode([Clip(sound(category, seconds, random))])
        assert isinstance(scores, ClipScores)
        assert scores.probabilities is not None
        found.append(CATEGORIES[int(scores.probabilities.argmax())])
    assert np.mean([one == other for one, other in zip(found, wanted, strict=True)]) > 0.9


def test_silence_is_safe(small: Wav2Vec2Classifier) -> None:
    (scores,) = small.encode([Clip(np.zeros(32_000, np.float32), "hi")])
    assert isinstance(scores, ClipScores)
    assert scores.nsfw_score is not None
    assert scores.nsfw_score < 0.5


def test_its_card_says_what_it_is_worth(small: Wav2Vec2Classifier) -> None:
    card = small.card
    assert (card.name, card.weights) == (SMALL, "trained-here")
    assert "not a judgement of real speech" in card.note
    own = json.loads((small_directory() / "card.json").read_text())
    assert own["sha256"] == card.sha256 == file_sha256(small_directory() / "model.safetensors")
    assert own["held_out_accuracy"] > 0.9
    assert small.route("hi").fallback


def test_one_recipe_gives_one_model_that_loads_like_any_checkpoint(tmp_path: Path) -> None:
    recipe = Recipe(seed=7, seconds=0.3, train_per_category=3, held_out_per_category=1, epochs=1)
    threads = torch.get_num_threads()
    try:
        one, other = train(recipe), train(recipe)
    finally:
        torch.set_num_threads(threads)
    assert one.report == other.report
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
    write(one, tmp_path)
    classifier = Wav2Vec2Classifier(Wav2Vec2Settings(models={"und": str(tmp_path)}, min_agreement=0.9))
    classifier.load()
    assert classifier.card.weights == "trained-here"


def test_a_missing_artefact_is_named_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefact, "artefacts", lambda: tmp_path)
    with pytest.raises(MissingWeights, match=r"wav2vec2-small.*deployments\.wav2vec2\.train_small"):
        small_directory()
