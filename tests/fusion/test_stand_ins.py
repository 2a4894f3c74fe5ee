"""Stand-in posts: reproducible, of every kind, with no sentence in two parts of the split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.clip.registry import make_encoder as make_visual_encoder
from deployments.fusion.artefact import TrainedOn
from deployments.fusion.dataset import SPLITS, read_dataset, read_encoders
from deployments.fusion.features import FusionInput
from deployments.fusion.head import FusionHead
from deployments.fusion.settings import FusionSettings
from deployments.fusion.stand_in_images import picture
from deployments.fusion.stand_ins import (
    HELDOUT_LANGUAGES,
    NOTE,
    TRAIN_LANGUAGES,
    make_stand_in_table,
    sentences,
    stand_in_posts,
)
from deployments.policy.policy import CATEGORIES
from deployments.runtime.errors import InvalidInput
from deployments.runtime.stand_in_sounds import sound
from deployments.runtime.values import Embeddings, Modality, TextEmbedding
from deployments.vggish.registry import make_encoder as make_sound_encoder
from serve_app.config import AppConfig

KINDS = (*CATEGORIES, "parts")


def test_no_sentence_is_in_two_parts_of_the_split_or_two_categories() -> None:
    seen: Counter[str] = Counter()
    for language in (*TRAIN_LANGUAGES, *HELDOUT_LANGUAGES):
        for split in SPLITS:
            seen.update(s for kind in KINDS for s in sentences(language, kind, split))
    assert [sentence for sentence, times in seen.items() if times > 1] == []
    assert len(seen) > 500


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_has_sentences_where_its_split_needs_them(category: str) -> None:
    for language in TRAIN_LANGUAGES:
        assert sentences(language, category, "calibrate")
        assert len(sentences(language, category, "train")) >= 5
        assert not sentences(language, category, "heldout")
    for language in HELDOUT_LANGUAGES:
        assert sentences(language, category, "heldout")
        assert not sentences(language, category, "train")


def test_posts_are_the_same_for_the_same_seed_and_whatever_their_number() -> None:
    few, more = list(stand_in_posts(3, seed=5)), list(stand_in_posts(6, seed=5))
    for a, b in zip(few, more[:3], strict=True):
        assert (a.label, a.text, a.carriers) == (b.label, b.text, b.carriers)
        np.testing.assert_equal(a.frames, b.frames)
        np.testing.assert_equal(a.sound, b.sound)


def test_an_unsafe_post_shows_its_label_in_a_modality_it_has() -> None:
    for post in stand_in_posts(40, seed=1):
        has = {Modality.VISUAL: post.frames, Modality.AUDIO: post.sound, Modality.TEXT: post.text}
        assert all(has[m] is not None for m in post.carriers)
        assert bool(post.carriers) == (post.label != "safe")


@pytest.mark.parametrize("category", CATEGORIES)
def test_pictures_and_sounds_have_the_shapes_the_encoders_take(category: str) -> None:
    rng = np.random.default_rng(0)
    image, wave = picture(category, rng), sound(category, 1.5, rng)
    assert image.shape == (224, 224, 3)
    assert image.dtype == np.uint8
    assert image.std() > 3
    assert wave.shape == (24_000,)
    assert wave.dtype == np.float32
    assert 0.01 < np.abs(wave).max() <= 1.0


def embed_frames(frames: NDArray[np.uint8]) -> Embeddings:
    return Embeddings(frames.mean(axis=(1, 2)).astype(np.float32))


def embed_sound(samples: NDArray[np.float32]) -> Embeddings:
    spectrum = np.abs(np.fft.rfft(samples[:8000]))[:4000].reshape(8, -1).mean(axis=1)
    return Embeddings(spectrum.astype(np.float32)[None])


def embed_texts(texts: list[str]) -> list[TextEmbedding]:
    return [TextEmbedding(np.array([len(t), t.count(" "), 1], np.float32), len(t), False) for t in texts]


def test_the_table_made_of_any_encoders_can_be_read(tmp_path: Path) -> None:
    done: list[int] = []
    encoders = {
        m: TrainedOn(name=f"enc-{m}", version="1", dimension=d) for m, d in zip(Modality, (3, 8, 3), strict=True)
    }
    table = make_stand_in_table(
        tmp_path / "t.parquet",
        embed_frames,
        embed_sound,
        embed_texts,
        n=60,
        seed=2,
        encoders=encoders,
        progress=lambda i, _: done.append(i),
    )
    data = read_dataset(table)
    assert done == list(range(1, 61))
    assert read_encoders(table) == encoders
    assert data.dimensions == {Modality.VISUAL: 3, Modality.AUDIO: 8, Modality.TEXT: 3}
    assert set(data.languages) - {None} <= {*TRAIN_LANGUAGES, *HELDOUT_LANGUAGES}


def test_an_encoder_that_fails_ends_the_making_of_the_table(tmp_path: Path) -> None:
    def broken(_: NDArray[np.float32]) -> InvalidInput:
        return InvalidInput("no sound today")

    with pytest.raises(InvalidInput, match="no sound today"):
        make_stand_in_table(tmp_path / "t.parquet", embed_frames, broken, embed_texts, n=20)
    assert not (tmp_path / "t.parquet").exists()


def test_the_committed_local_head_loads_and_says_what_it_is_worth() -> None:
    head = FusionHead.load(FusionSettings().artefact)
    assert head.dimensions == {Modality.VISUAL: 1024, Modality.AUDIO: 128, Modality.TEXT: 384}
    assert (head.card.weights, head.card.note) == ("trained-here", NOTE)
    assert set(head.details.encoders) == set(Modality)
    output = head.predict(FusionInput(text=TextEmbedding(np.ones(384, np.float32), 3, False)))
    assert sum(output.category_scores.values()) == pytest.approx(1.0)


def test_the_committed_local_head_fits_the_committed_sound_encoder_and_the_packaged_visual_one() -> None:
    """Fails when an encoder's weights change and the head was not trained anew (`python -m serve_app.training`)."""
    config = AppConfig(profile="local")
    sound_encoder, visual_encoder = make_sound_encoder(config.vggish.encoder), make_visual_encoder(config.clip.encoder)
    sound_encoder.load()
    visual_encoder.load()
    head = FusionHead.load(config.fusion.head.artefact)
    head.check_encoders({Modality.AUDIO: sound_encoder.card, Modality.VISUAL: visual_encoder.card})
