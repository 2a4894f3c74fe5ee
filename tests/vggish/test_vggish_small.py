"""The small network that ships: it is what its card says, and it does what its card claims on sound made anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deployments.runtime.errors import MissingWeights, WrongWeights
from deployments.runtime.values import Embeddings
from deployments.runtime.weights import file_sha256
from deployments.vggish.artefact import CARD_NAME, WEIGHTS_NAME, artefacts, read_card
from deployments.vggish.encoder import SoundItem, VggishEncoder
from deployments.vggish.generated_sound import KINDS, generate
from deployments.vggish.log_mel import log_mel_examples
from deployments.vggish.settings import VggishSettings
from deployments.vggish.train_small import Recipe, train, write

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def encoder() -> VggishEncoder:
    encoder = VggishEncoder(VggishSettings(precision="fp32"))
    encoder.load()
    return encoder


def test_every_verdict_can_say_what_the_shipped_weights_are(encoder: VggishEncoder) -> None:
    assert encoder.card.weights == "trained-here"
    assert "not a judgement of real sound" in encoder.card.note
    assert encoder.card.sha256 == file_sha256(artefacts() / WEIGHTS_NAME)
    assert (artefacts() / WEIGHTS_NAME).stat().st_size < 3_000_000


def test_the_card_claims_more_than_its_baseline() -> None:
    report = json.loads((artefacts() / CARD_NAME).read_text())
    assert report["held_out_accuracy"] > 0.95 > report["baseline_log_mel_mean_accuracy"]
    assert report["worse_copy_recall_at_1"] > report["baseline_log_mel_mean_recall_at_1"]


def test_sounds_of_a_seed_never_trained_on_lie_nearest_their_own_kind(encoder: VggishEncoder) -> None:
    learned, tried = _sounds(20, seed=101), _sounds(10, seed=202)
    by_network = _nearest_centroid_accuracy(_vectors(encoder, learned), _vectors(encoder, tried))
    by_bands = _nearest_centroid_accuracy(_mean_log_mel(learned), _mean_log_mel(tried))
    assert by_network > 0.9
    assert by_network > by_bands + 0.1


def _sounds(per_kind: int, seed: int) -> list[Array]:
    random = np.random.default_rng(seed)
    return [generate(kind, 0.975, random) for kind in KINDS for _ in range(per_kind)]


def _vectors(encoder: VggishEncoder, sounds: list[Array]) -> Array:
    results = encoder.encode([SoundItem(sound) for sound in sounds])
    return np.concatenate([result.vectors for result in results if isinstance(result, Embeddings)])


def _mean_log_mel(sounds: list[Array]) -> Array:
    return np.stack([log_mel_examples(sound)[0].mean(0) for sound in sounds])


def _nearest_centroid_accuracy(learned: Array, tried: Array) -> float:
    centroids = learned.reshape(len(KINDS), -1, learned.shape[1]).mean(1)
    distance = ((tried[:, None] - centroids[None]) ** 2).sum(-1)
    kind = np.repeat(np.arange(len(KINDS)), len(tried) // len(KINDS))
    return float((distance.argmin(1) == kind).mean())


def test_one_recipe_gives_one_network_and_a_card_that_fits_it(tmp_path: Path) -> None:
    recipe = Recipe(seed=7, width=1, train_per_kind=3, held_out_per_kind=2, epochs=1)
    one, other = train(recipe), train(recipe)
    assert all(torch.equal(tensor, other.state_dict[name]) for name, tensor in one.state_dict.items())
    assert one.report == other.report
    write(one, tmp_path)
    assert read_card(tmp_path).sha256 == file_sha256(tmp_path / WEIGHTS_NAME)


def test_a_missing_or_broken_card_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=CARD_NAME):
        read_card(tmp_path)
    (tmp_path / CARD_NAME).write_text("{}")
    with pytest.raises(WrongWeights, match=CARD_NAME):
        read_card(tmp_path)
