"""The node's numbers are transformers' own, one clip at a time; batches of unequal clips change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2ForSequenceClassification

from deployments.wav2vec2.checkpoint import Checkpoint, build_trunk, open_checkpoint
from deployments.wav2vec2.head import Head, make_head, softmax
from deployments.wav2vec2.loading import fold_weight_norm
from deployments.wav2vec2.preprocess import prepare
from deployments.wav2vec2.runtimes import OpenVinoRuntime, TorchRuntime
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.trunk import Trunk
from deployments.wav2vec2.values import Clip, ClipScores
from tests.wav2vec2.conftest import Array, loaded, make_tiny, reference, sound

SHAPES: dict[str, dict[str, Any]] = {
    "base": {},
    "layer norm": {"feat_extract_norm": "layer", "conv_bias": True},
    "stable": {"do_stable_layer_norm": True, "feat_extract_norm": "layer"},
    "weighted layers": {"use_weighted_layer_sum": True},
    "stable, weighted layers": {"do_stable_layer_norm": True, "use_weighted_layer_sum": True},
    "adapters": {"do_stable_layer_norm": True, "adapter_attn_dim": 8},
    "odd positions": {"num_conv_pos_embeddings": 15},
}
SHORTEST = 325  # two frames


@pytest.fixture(scope="module", params=SHAPES, ids=lambda name: name.replace(" ", "-"))
def shape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("shape"), seed=3, **SHAPES[request.param])


@pytest.fixture(scope="module")
def parts(shape: Path) -> tuple[TorchRuntime, Head]:
    return runtime_and_head(shape)


def runtime_and_head(directory: Path) -> tuple[TorchRuntime, Head]:
    checkpoint = open_checkpoint(str(directory), Wav2Vec2Settings())
    model = build_trunk(checkpoint)
    fold_weight_norm(model)
    trunk = Trunk(model, checkpoint.weighted_layers).eval()
    return TorchRuntime(trunk, torch.device("cpu"), torch.float32), make_head(checkpoint.head_state())


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("samples", [SHORTEST, 5000, 16_001])
def test_one_clip_gives_the_logits_of_transformers(tmp_path: Path, do_normalize: bool, samples: int) -> None:
    directory = make_tiny(tmp_path, do_normalize=do_normalize)
    (scores,) = loaded({"hi": directory}).encode([Clip(sound(samples), "hi")])
    assert isinstance(scores, ClipScores)
    assert scores.probabilities is not None
    np.testing.assert_allclose(scores.probabilities, softmax(reference(directory, sound(samples))), atol=1e-5)


@pytest.mark.parametrize("samples", [SHORTEST, 3000, 12_345])
def test_every_shape_of_checkpoint_alone(shape: Path, parts: tuple[TorchRuntime, Head], samples: int) -> None:
    runtime, head = parts
    logits = head(runtime.alone(prepare(sound(samples), True)))
    np.testing.assert_allclose(logits, reference(shape, sound(samples)), atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(SHORTEST, 9000), min_size=1, max_size=5))
def test_a_masked_batch_of_any_lengths_is_each_clip_alone(
    shape: Path, parts: tuple[TorchRuntime, Head], lengths: list[int]
) -> None:
    runtime, head = parts
    clips = [prepare(sound(length, seed), True) for seed, length in enumerate(lengths)]
    for clip, together in zip(clips, runtime.together(clips), strict=True):
        np.testing.assert_allclose(together, runtime.alone(clip), atol=2e-5)
        np.testing.assert_allclose(head(together), head(runtime.alone(clip)), atol=1e-4)


def test_plain_padding_would_have_changed_the_result(tmp_path: Path) -> None:
    """So that the test above can fail: transformers' own batch of the same clips, unmasked and with its mask."""
    directory = make_tiny(tmp_path)
    runtime, head = runtime_and_head(directory)
    short, long = prepare(sound(2000, 1), True), prepare(sound(9000, 2), True)
    model = Wav2Vec2ForSequenceClassification.from_pretrained(directory).eval()
    batch = torch.zeros(2, 9000)
    batch[0, :2000], batch[1] = torch.from_numpy(short), torch.from_numpy(long)
    alone = reference(directory, sound(2000, 1))
    with torch.inference_mode():
        plain = model(batch).logits[0].numpy()
        mask = torch.arange(9000)[None] < torch.tensor([[2000], [9000]])
        masked_attention_only = model(batch, attention_mask=mask.long()).logits[0].numpy()
    assert np.abs(plain - alone).max() > 1e-2
    assert np.abs(masked_attention_only - alone).max() > 1e-2
    np.testing.assert_allclose(head(runtime.together([short, long])[0]), alone, atol=1e-4)


def test_the_masked_group_norm_alone_is_exact(tmp_path: Path) -> None:
    from deployments.wav2vec2.trunk import masked_group_norm

    norm = torch.nn.GroupNorm(16, 16)
    torch.nn.init.normal_(norm.weight)
    x, lengths = torch.randn(3, 16, 700), torch.tensor([2, 333, 700])
    masked = masked_group_norm(norm, x, lengths)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(masked[row, :, :length], norm(x[row : row + 1, :, :length])[0], atol=3e-6, rtol=1e-5)


def test_openvino_takes_every_shape_and_any_length(shape: Path) -> None:
    checkpoint = open_checkpoint(str(shape), Wav2Vec2Settings())
    runtime = openvino_of(checkpoint)
    head = make_head(checkpoint.head_state())
    for samples in (SHORTEST, 7001, 1000):
        (rows,) = runtime([prepare(sound(samples), True)])
        np.testing.assert_allclose(head(rows), reference(shape, sound(samples)), atol=1e-4)


@settings(max_examples=4, deadline=None)
@given(lengths=st.lists(st.one_of(st.integers(SHORTEST, 400), st.integers(SHORTEST, 20_000)), min_size=2, max_size=6))
def test_openvino_forgets_the_lengths_it_saw_before(
    tiny_parts: tuple[Checkpoint, TorchRuntime], lengths: list[int]
) -> None:
    """It compiles kernels by shape as lengths come: from one frame on, which is refused, it would go wrong later."""
    checkpoint, reference = tiny_parts
    runtime = openvino_of(checkpoint)
    for length in lengths:
        clip = prepare(sound(length), True)
        np.testing.assert_allclose(runtime([clip])[0], reference.alone(clip), atol=2e-5)


@pytest.fixture(scope="module")
def tiny_parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, TorchRuntime]:
    directory = make_tiny(tmp_path_factory.mktemp("tiny"))
    return open_checkpoint(str(directory), Wav2Vec2Settings()), runtime_and_head(directory)[0]


def openvino_of(checkpoint: Checkpoint) -> OpenVinoRuntime:
    model = build_trunk(checkpoint)
    fold_weight_norm(model)
    return OpenVinoRuntime(Trunk(model, checkpoint.weighted_layers).eval(), 1, "fp32")


def test_one_bad_clip_leaves_its_neighbours_alone(tiny: Path) -> None:
    classifier = loaded({"hi": tiny})
    bad: Array = sound(4000)
    bad[17] = np.nan
    good = [Clip(sound(4000, seed), "hi") for seed in (1, 2)]
    first, error, second = classifier.encode([good[0], Clip(bad, "hi"), good[1]])
    alone = [classifier.encode([clip])[0] for clip in good]
    assert isinstance(error, Exception)
    for mixed, single in zip((first, second), alone, strict=True):
        assert isinstance(mixed, ClipScores)
        assert isinstance(single, ClipScores)
        np.testing.assert_array_equal(mixed.probabilities, single.probabilities)
