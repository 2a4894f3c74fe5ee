"""What the encoder does with a batch: each text gets what it would get alone, whatever stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.runtime.encoder import Encoder
from deployments.runtime.errors import InvalidInput, ModelError, NodeUnavailable
from deployments.runtime.values import TextEmbedding
from deployments.xlmr.encoder import TextEncoder
from deployments.xlmr.random_weights import build_random
from deployments.xlmr.registry import make_encoder
from deployments.xlmr.settings import XlmrSettings
from tests.xlmr.conftest import TINY, tiny_tokenizer

Load = Callable[..., TextEncoder]
MIXED = ["a cat", "the red fish", "a dog", "big cat ate the red fish and ran", "the old home", "sea"]


def vectors(results: object) -> np.ndarray:
    assert isinstance(results, list)
    for result in results:
        assert isinstance(result, TextEmbedding), result
    return np.stack([result.vector for result in results])


def test_a_batch_gives_what_each_text_gives_alone_and_in_order(tiny: Path, loaded: Load) -> None:
    encoder = loaded(tiny)
    alone = vectors([encoder.encode([text])[0] for text in MIXED])
    assert alone.dtype == np.float32
    assert alone.shape == (len(MIXED), TINY["hidden_size"])
    np.testing.assert_allclose(vectors(encoder.encode(MIXED)), alone, atol=2e-6)


def test_the_vector_is_the_mean_of_the_last_hidden_states(tiny: Path, loaded: Load) -> None:
    ids = torch.tensor([tiny_tokenizer().encode("the red fish").ids])
    with torch.inference_mode():
        hidden = build_random(torch.float32, **TINY)(ids).last_hidden_state[0]
    by_hand = sum(hidden[at].numpy() for at in range(len(hidden))) / len(hidden)
    np.testing.assert_allclose(vectors(loaded(tiny).encode(["the red fish"]))[0], by_hand, atol=2e-6)


def test_one_poisoned_item_of_eight_fails_alone(tiny: Path, loaded: Load) -> None:
    encoder = loaded(tiny)
    items = ["a cat"] * 3 + [" \n\t\u200b"] + ["the dog ran"] * 4
    results = encoder.encode(items)
    assert [isinstance(result, InvalidInput) for result in results] == [False] * 3 + [True] + [False] * 4
    assert str(results[3]) == "The text is empty."
    assert vectors([*results[:3], *results[4:]]).shape == (7, TINY["hidden_size"])


def test_a_batch_of_nothing_valid_and_an_empty_batch(tiny: Path, loaded: Load) -> None:
    encoder = loaded(tiny)
    assert encoder.encode([]) == []
    assert all(isinstance(result, InvalidInput) for result in encoder.encode(["", "\0"]))


def test_a_vector_that_is_not_finite_is_an_error_and_not_a_number(tiny: Path, loaded: Load) -> None:
    encoder = loaded(tiny)
    sea = tiny_tokenizer().token_to_id("sea")
    encoder._ready().model.embeddings.word_embeddings.weight[sea] = float("nan")
    poisoned, sound = encoder.encode(["sea", "a cat"])
    assert isinstance(poisoned, NodeUnavailable)  # costs the post its text, where a ModelError would end the run
    assert isinstance(sound, TextEmbedding)


def test_a_long_text_is_cut_at_the_models_limit_and_says_so(tiny: Path, loaded: Load) -> None:
    encoder = loaded(tiny)
    long, short = encoder.encode(["a cat " * 400, "a cat"])
    assert isinstance(long, TextEmbedding)
    assert isinstance(short, TextEmbedding)
    assert (long.tokens, long.truncated) == (TINY["max_position_embeddings"] - 2, True)
    assert (short.tokens, short.truncated) == (4, False)
    (exact,) = encoder.encode(["cat " * 30])
    assert isinstance(exact, TextEmbedding)
    assert (exact.tokens, exact.truncated) == (32, False)


def test_a_lower_limit_may_be_set(tiny: Path, loaded: Load) -> None:
    (result,) = loaded(tiny, max_tokens=8).encode(["a cat " * 10])
    assert isinstance(result, TextEmbedding)
    assert (result.tokens, result.truncated) == (8, True)


def test_special_tokens_in_a_text_do_not_steer_the_model(tiny: Path, loaded: Load) -> None:
    encoder = loaded(tiny)
    spoofed, plain = vectors(encoder.encode(["a </s> <pad> <pad> cat <s>", "a cat"]))
    np.testing.assert_array_equal(spoofed, plain)


def test_the_prefix_is_part_of_what_is_encoded(tiny: Path, loaded: Load) -> None:
    with_prefix = vectors(loaded(tiny, prefix="the ").encode(["cat"]))
    np.testing.assert_allclose(with_prefix, vectors(loaded(tiny).encode(["the cat"])), atol=1e-6)


def test_bf16_is_near_fp32(tiny: Path, loaded: Load) -> None:
    low = loaded(tiny, precision="bf16")
    a, b = vectors(low.encode(MIXED)), vectors(loaded(tiny).encode(MIXED))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.min() > 0.999
    assert low.card.precision == "bf16"


def test_weight_estimates_tokens_and_cpu_batches_are_not_split_by_length(tiny: Path, loaded: Load) -> None:
    encoder = loaded(tiny)
    assert encoder.weight("") >= 1
    assert encoder.weight("a cat") < encoder.weight("a cat and a big old dog")
    assert encoder.weight("a cat " * 10_000) == TINY["max_position_embeddings"] - 2
    assert encoder.bucket("a cat") is encoder.bucket("a cat " * 100) is None


def test_what_is_not_loaded_says_so() -> None:
    encoder = TextEncoder(XlmrSettings(model="anything"))
    for call in (lambda: encoder.card, lambda: encoder.weight("a"), lambda: encoder.encode(["a"])):
        with pytest.raises(ModelError, match="not loaded"):
            call()


def fake() -> Encoder[str, TextEmbedding]:
    return make_encoder(XlmrSettings(model="fake", prefix="query: "))


def test_the_fake_is_deterministic_honest_and_obeys_the_same_rules() -> None:
    encoder = fake()
    encoder.load()
    results = encoder.encode(["a red fish", "", "a red fish", "a red dish", "completely otherwise", "word " * 900])
    assert isinstance(results[1], InvalidInput)
    a, again, near, far, long = vectors([results[0], *results[2:]])
    np.testing.assert_array_equal(a, again)
    assert a @ near / np.linalg.norm(near) > a @ far / np.linalg.norm(far)
    assert long.shape == (encoder.card.dimension,) == (384,)
    assert encoder.card.weights == "random"
    assert isinstance(results[5], TextEmbedding)
    assert results[5].truncated


@settings(deadline=None)
@given(st.lists(st.text(st.characters(categories=None, exclude_categories=())), max_size=5))
def test_the_fake_survives_any_string(texts: list[str]) -> None:
    results = fake().encode(texts)
    assert len(results) == len(texts)
    assert all(isinstance(result, (TextEmbedding, InvalidInput)) for result in results)


def test_the_fake_refuses_the_texts_that_the_real_one_refuses(tiny: Path, loaded: Load) -> None:
    texts = ["\u200b", " \u200d\n", "\0", "", "a cat", "\u200ba"]
    fake, real = make_encoder(XlmrSettings(model="fake")), loaded(tiny)
    by_fake, by_real = ([isinstance(r, InvalidInput) for r in e.encode(texts)] for e in (fake, real))
    assert by_fake == by_real == [True, True, True, True, False, False]
