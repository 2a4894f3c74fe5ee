"""What the head makes of one post: seven scores from whatever modalities there are."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.fusion.features import MODALITIES, FusionInput, unit
from deployments.fusion.head import FusionHead, FusionOutput, random_head
from deployments.fusion.report import SUBSETS
from deployments.fusion.train import TorchHead
from deployments.policy.policy import CATEGORIES
from deployments.runtime.errors import InvalidInput, NodeUnavailable
from deployments.runtime.values import Embeddings, Modality, TextEmbedding

DIMENSIONS = {Modality.VISUAL: 20, Modality.AUDIO: 8, Modality.TEXT: 12}
HEAD = random_head(DIMENSIONS, seed=3, hidden=(32, 16))


def vectors(rng: np.random.Generator, modality: Modality, n: int = 1) -> np.ndarray:
    return rng.standard_normal((n, DIMENSIONS[modality])).astype(np.float32)


def post(subset: tuple[Modality, ...], seed: int = 0, frames: int = 4, examples: int = 3) -> FusionInput:
    rng = np.random.default_rng(seed)
    drawn = {m: vectors(rng, m, n) for m, n in zip(MODALITIES, (frames, examples, 1), strict=True)}
    return FusionInput(
        frames=Embeddings(drawn[Modality.VISUAL]) if Modality.VISUAL in subset else None,
        sound=Embeddings(drawn[Modality.AUDIO]) if Modality.AUDIO in subset else None,
        text=TextEmbedding(drawn[Modality.TEXT][0], 5, False) if Modality.TEXT in subset else None,
    )


def assert_is_distribution(output: FusionOutput) -> None:
    assert tuple(output.category_scores) == CATEGORIES
    scores = np.array(list(output.category_scores.values()))
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores.sum() == pytest.approx(1.0, abs=1e-6)
    assert output.nsfw_score == pytest.approx(1.0 - output.category_scores["safe"])


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_subset_of_modalities_gives_seven_scores_that_sum_to_one(subset: tuple[Modality, ...]) -> None:
    assert_is_distribution(HEAD.predict(post(subset)))


def test_the_seven_subsets_of_one_post_give_seven_different_answers() -> None:
    answers = {round(HEAD.predict(post(subset)).nsfw_score, 9) for subset in SUBSETS}
    assert len(answers) == len(SUBSETS) == 7


ALL = post(MODALITIES)
ZEROED = {
    "visual": (replace(ALL, frames=Embeddings(np.zeros((1, 20), np.float32))), replace(ALL, frames=None)),
    "audio": (replace(ALL, sound=Embeddings(np.zeros((1, 8), np.float32))), replace(ALL, sound=None)),
    "text": (replace(ALL, text=TextEmbedding(np.zeros(12, np.float32), 5, False)), replace(ALL, text=None)),
}


@pytest.mark.parametrize("modality", ZEROED)
def test_a_missing_modality_is_not_a_zero_vector(modality: str) -> None:
    zeroed, missing = (HEAD.predict(given).category_scores for given in ZEROED[modality])
    assert zeroed != pytest.approx(missing, abs=1e-4)


def test_no_rows_count_as_missing() -> None:
    empty = Embeddings(np.zeros((0, 20), np.float32))
    assert HEAD.predict(replace(post(MODALITIES), frames=empty)) == HEAD.predict(replace(post(MODALITIES), frames=None))


def concatenated(rows: dict[Modality, np.ndarray]) -> np.ndarray:
    """(n, dimension) per present modality -> (n, sum of dimensions + 3), the matrix a trainer reads."""
    n = len(next(iter(rows.values())))
    blocks = [rows.get(m, np.zeros((n, DIMENSIONS[m]), np.float32)) for m in MODALITIES]
    presence = np.tile(np.array([m in rows for m in MODALITIES], np.float32), (n, 1))
    return np.concatenate([*blocks, presence], axis=1)


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_numpy_and_torch_agree(subset: tuple[Modality, ...]) -> None:
    torch_head = TorchHead(sum(DIMENSIONS.values()) + 3, (32, 16), dropout=0.5).eval()
    torch_head.load_state_dict({name: torch.from_numpy(value) for name, value in HEAD.mlp.tensors.items()})
    rng = np.random.default_rng(1)
    rows = {m: unit(vectors(rng, m, 50)) for m in subset}
    with torch.no_grad():
        by_torch = torch_head(torch.from_numpy(concatenated(rows))).numpy()
    by_numpy = HEAD.mlp.logits(rows)
    np.testing.assert_allclose(by_numpy, by_torch, atol=1e-5)


def test_the_mean_score_does_not_depend_on_the_order_or_scale_of_frames() -> None:
    first = post(MODALITIES, frames=9)
    assert first.frames is not None
    turned = replace(first, frames=Embeddings(first.frames.vectors[::-1] * np.float32(7.5)))
    assert HEAD.mean_scores(turned) == pytest.approx(HEAD.mean_scores(first), abs=1e-5)


def test_one_frame_scores_as_its_mean_and_makes_no_segment() -> None:
    image = post((Modality.VISUAL, Modality.TEXT), frames=1)
    output = HEAD.predict(image)
    assert output.category_scores == pytest.approx(HEAD.mean_scores(image), abs=1e-6)
    assert output.segments == ()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_its_encoders_fault_and_not_the_clients(value: float) -> None:
    poisoned = FusionInput(sound=Embeddings(np.full((2, 8), value, np.float32)), text=post(MODALITIES).text)
    with pytest.raises(NodeUnavailable, match="audio embedding holds a number that is not finite"):
        HEAD.predict(poisoned)


BROKEN = {
    "dimension": (
        FusionInput(frames=Embeddings(np.ones((2, 21), np.float32))),
        "visual embedding has dimension 21; .*20",
    ),
    "shape": (FusionInput(frames=Embeddings(np.ones(20, np.float32))), "visual embedding has dimension shape"),
    "text": (FusionInput(text=TextEmbedding(np.ones(384, np.float32), 1, False)), "text embedding has dimension 384"),
    "nothing": (FusionInput(), "no modality"),
    "times": (
        FusionInput(frames=Embeddings(np.ones((2, 20), np.float32), times_s=np.zeros(3, np.float32))),
        "times must be 2",
    ),
    "times fall": (
        FusionInput(frames=Embeddings(np.ones((2, 20), np.float32), times_s=np.array([1, 0], np.float32))),
        "times",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_judged_is_an_error_that_says_why(case: str) -> None:
    broken, message = BROKEN[case]
    with pytest.raises(InvalidInput, match=message):
        HEAD.predict(broken)


numbers = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(numbers, min_size=20, max_size=20), min_size=1, max_size=5), st.booleans())
def test_any_finite_embedding_gives_finite_scores(frames: list[list[float]], with_text: bool) -> None:
    text = TextEmbedding(np.zeros(12, np.float32), 1, False) if with_text else None
    assert_is_distribution(HEAD.predict(FusionInput(Embeddings(np.array(frames, np.float32)), text=text)))


def test_read_only_arrays_are_fine() -> None:
    given = post(MODALITIES)
    assert given.frames is not None
    given.frames.vectors.flags.writeable = False
    assert_is_distribution(HEAD.predict(given))


def test_a_random_head_says_so_and_its_seed_decides_it() -> None:
    same, other = random_head(DIMENSIONS, 3, (32, 16)), random_head(DIMENSIONS, 4, (32, 16))
    assert HEAD.card.weights == "random"
    assert same.predict(post(MODALITIES)) == HEAD.predict(post(MODALITIES))
    assert other.card.version != HEAD.card.version
    assert HEAD.dimensions == DIMENSIONS


def test_ten_minutes_of_video_are_judged_in_about_a_second() -> None:
    full = random_head({Modality.VISUAL: 2048, Modality.AUDIO: 128, Modality.TEXT: 1024}, 0)
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((600, 2048)).astype(np.float32)
    sound = rng.standard_normal((625, 128)).astype(np.float32)
    text = TextEmbedding(rng.standard_normal(1024).astype(np.float32), 9, False)
    begin = time.process_time()
    assert_is_distribution(full.predict(FusionInput(Embeddings(frames), Embeddings(sound), text)))
    assert time.process_time() - begin < 5.0


def test_head_from_training_loads_as_such(head: FusionHead) -> None:
    assert head.card.weights == "trained-here"
    assert head.card.sha256 == head.details.weights_sha256
