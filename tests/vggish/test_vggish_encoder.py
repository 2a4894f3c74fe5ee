"""Sound of several posts through one encoder: where examples start, what is heard, and who shares with whom."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput, NodeUnavailable
from deployments.runtime.values import Embeddings, SoundBlock
from deployments.vggish.encoder import SoundItem, VggishEncoder
from deployments.vggish.examples import count_examples, log_mel_of
from deployments.vggish.fake import FakeSoundEncoder
from deployments.vggish.generated_sound import generate
from deployments.vggish.registry import make_encoder
from deployments.vggish.settings import VggishSettings

Samples = NDArray[np.float32]


def _noise(samples: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def _loaded(**values: object) -> VggishEncoder:
    encoder = VggishEncoder(VggishSettings.model_validate(values))
    encoder.load()
    return encoder


@pytest.fixture(scope="module")
def encoder() -> VggishEncoder:
    return _loaded(precision="fp32")


def _encode(encoder: Any, item: SoundItem) -> Embeddings:
    (result,) = encoder.encode([item])
    assert isinstance(result, Embeddings)
    return result


def test_twenty_seconds_are_twenty_examples_a_little_less_than_a_second_apart(encoder: VggishEncoder) -> None:
    clip = SoundItem(_noise(320_000))
    result = _encode(encoder, clip)
    assert result.vectors.shape == (20, 128)
    assert result.vectors.dtype == np.float32
    assert result.times_s is not None
    assert np.allclose(result.times_s, np.arange(20) * 0.96)
    assert encoder.weight(clip) == 20


def test_blocks_of_sampled_sound_keep_their_place_in_the_media(encoder: VggishEncoder) -> None:
    sound = _noise(80_000)
    blocks = (SoundBlock(10.0, 0, 32_000), SoundBlock(600.0, 32_000, 48_000))
    result = _encode(encoder, SoundItem(sound, blocks))
    assert result.times_s is not None
    assert np.allclose(result.times_s, [10.0, 10.96, 600.0, 600.96, 601.92])
    second = _encode(encoder, SoundItem(sound[32_000:]))
    assert np.allclose(result.vectors[2:], second.vectors, atol=1e-5)


def test_sound_shorter_than_an_example_is_padded_with_silence(encoder: VggishEncoder) -> None:
    short = _noise(5_000)
    padded = np.concatenate([short, np.zeros(15_600 - 5_000, np.float32)])
    assert np.array_equal(_encode(encoder, SoundItem(short)).vectors, _encode(encoder, SoundItem(padded)).vectors)
    assert encoder.weight(SoundItem(short)) == 1


def test_the_tail_is_dropped_as_published_or_heard_on_request() -> None:
    sound = np.concatenate([np.zeros(16_000, np.float32), _noise(8_000)])
    dropped, heard = _encode(_loaded(tail="drop"), SoundItem(sound)), _encode(_loaded(tail="pad"), SoundItem(sound))
    assert len(dropped.vectors) == 1
    assert len(heard.vectors) == 2
    assert np.abs(heard.vectors[1] - heard.vectors[0]).max() > 0.1


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 40_000), min_size=1, max_size=3),
    tail=st.sampled_from(["drop", "pad"]),
)
def test_the_weight_is_the_number_of_examples_and_every_example_has_a_time(
    lengths: list[int], tail: Literal["drop", "pad"]
) -> None:
    first = np.cumsum([0, *lengths])
    blocks = tuple(SoundBlock(100.0 * i, int(first[i]), n) for i, n in enumerate(lengths))
    item = SoundItem(_noise(sum(lengths)), blocks)
    log_mel, times_s = log_mel_of(item, tail)
    assert len(log_mel) == len(times_s) == count_examples(item, tail)


def test_what_shares_a_batch_changes_nothing(encoder: VggishEncoder) -> None:
    sounds = [SoundItem(_noise(n, seed)) for seed, n in enumerate((16_000, 100_000, 700_000, 3_000))]
    together = encoder.encode(sounds)
    for item, shared in zip(sounds, together, strict=True):
        assert isinstance(shared, Embeddings)
        assert np.allclose(shared.vectors, _encode(encoder, item).vectors, atol=1e-5)


@pytest.mark.parametrize("model", [FakeSoundEncoder(), _loaded(precision="fp32")])
@pytest.mark.parametrize(
    "wrong",
    [
        SoundItem(np.array([0.1, np.nan] * 8_000, np.float32)),
        SoundItem(np.array([0.1, np.inf] * 8_000, np.float32)),
        SoundItem(np.zeros(0, np.float32)),
        SoundItem(np.zeros((2, 16_000), np.float32)),
        SoundItem(np.zeros(16_000, np.float64)),
        SoundItem(np.zeros(16_000, np.float32), (SoundBlock(0.0, 8_000, 16_000),)),
        SoundItem(np.zeros(16_000, np.float32), (SoundBlock(0.0, -1, 100),)),
        "not sound",
    ],
)
def test_a_post_of_unusable_sound_fails_alone(wrong: Any, model: Any) -> None:
    before, error, after = model.encode([SoundItem(_noise(16_000)), wrong, SoundItem(_noise(16_000))])
    assert isinstance(error, InvalidInput)
    assert isinstance(before, Embeddings)
    assert np.array_equal(before.vectors, after.vectors)
    assert model.encode([wrong])[0].code == "invalid_request"


def test_sound_far_outside_its_range_is_its_senders_fault(encoder: VggishEncoder) -> None:
    loud = SoundItem(np.full(16_000, 3e38, np.float32) * np.sign(_noise(16_000)))
    error, fine = encoder.encode([loud, SoundItem(_noise(16_000))])
    assert isinstance(error, InvalidInput)
    assert "far outside" in str(error)
    assert isinstance(fine, Embeddings)


def test_a_network_that_gives_no_finite_vector_does_not_blame_the_sound() -> None:
    damaged = _loaded(precision="fp32")
    assert damaged._network is not None
    damaged._network.get_parameter("embeddings.4.bias").fill_(float("inf"))
    (error,) = damaged.encode([SoundItem(_noise(16_000))])
    assert isinstance(error, NodeUnavailable)
    assert "The sound encoder gave" in str(error)


def test_read_only_sound_is_accepted_and_left_alone(encoder: VggishEncoder) -> None:
    sound = _noise(16_000)
    sound.flags.writeable = False
    assert _encode(encoder, SoundItem(sound)).vectors.shape == (1, 128)


def test_bf16_keeps_the_direction(encoder: VggishEncoder) -> None:
    item = SoundItem(generate("speech-like", 10.0, np.random.default_rng(1)))
    full, half = _encode(encoder, item).vectors, _encode(_loaded(precision="bf16"), item).vectors
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.999


def test_fakes_and_real_encoders_are_made_by_name() -> None:
    assert make_encoder(VggishSettings(variant="fake")).card.weights == "random"
    assert isinstance(make_encoder(VggishSettings()), VggishEncoder)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in VggishSettings.model_fields.values())
