"""CLIP's trunk against open_clip itself: same weights, same photographs, open_clip's own transform and forward pass.

The weights are the full RN50 architecture's, drawn at random and saved in open_clip's own format. Norm layers get
random gains (open_clip's initial ones switch the residual branches off) and the photographs' statistics (without which
a random network gives every photograph the same vector, and any comparison of vectors would pass).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from deployments.clip.open_clip_trunk import OpenClipTrunk
from deployments.clip.settings import ClipSettings
from deployments.runtime.errors import MissingWeights, NotFound, WrongWeights
from deployments.runtime.values import Embeddings, FrameSpec, TextEmbedding

Array = NDArray[np.float32]
MakeFrame = Callable[[Image.Image, FrameSpec], NDArray[np.uint8]]
Photos = dict[str, Image.Image]


@pytest.fixture(scope="module")
def original(photos: Photos) -> Any:
    """open_clip's model."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    model = open_clip.create_model("RN50", pretrained=None, force_quick_gelu=True).requires_grad_(False)
    for name, module in model.visual.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            gain = 0.25 if name.startswith("layer") and name.endswith("bn3") else 1.0  # residual branches are damped
            torch.nn.init.uniform_(module.weight, 0.5 * gain, gain, generator=generator)
            torch.nn.init.normal_(module.bias, 0, 0.2, generator=generator)
            module.momentum = None  # running statistics become those of the one batch below
    transform = open_clip.image_transform(224, is_train=False)
    model.visual.train()(torch.stack([transform(photo) for photo in photos.values()]))
    return model.eval()


@pytest.fixture(scope="module")
def directory(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As on the hub: a directory with open_clip_model.safetensors."""
    path: Path = tmp_path_factory.mktemp("RN50")
    save_file({k: v.contiguous() for k, v in original.state_dict().items()}, path / "open_clip_model.safetensors")
    return path


def _settings(checkpoint: Path, **others: object) -> ClipSettings:
    values = {"model": "open-clip", "checkpoint": str(checkpoint), "precision": "fp32"}
    return ClipSettings.model_validate({**values, **others})


@pytest.fixture(scope="module")
def fp32(directory: Path) -> OpenClipTrunk:
    encoder = OpenClipTrunk(_settings(directory))
    encoder.load()
    return encoder


@pytest.fixture(scope="module")
def frames(fp32: OpenClipTrunk, photos: Photos, make_frame: MakeFrame) -> NDArray[np.uint8]:
    return np.stack([make_frame(photo, fp32.frame_spec) for photo in list(photos.values())[:8]])


@pytest.fixture(scope="module")
def expected(original: Any, photos: Photos) -> tuple[Array, Array]:
    """Trunk (8, 2048) and joint (8, 1024) by open_clip: its transform, its forward pass, a hook before attnpool."""
    transform = open_clip.image_transform(224, is_train=False)
    maps: list[torch.Tensor] = []
    hook = original.visual.attnpool.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0]))
    with torch.inference_mode():
        joint = original.encode_image(torch.stack([transform(photo) for photo in list(photos.values())[:8]]))
    hook.remove()
    return maps[0].mean((2, 3)).numpy(), joint.numpy()


def _encode(encoder: OpenClipTrunk, frames: NDArray[np.uint8]) -> tuple[Array, Array]:
    (result,) = encoder.encode([frames])
    assert isinstance(result, Embeddings)
    assert result.joint is not None
    return result.vectors, result.joint


def _cosine(left: Array, right: Array) -> float:
    """The smallest row-wise cosine."""
    return float(((left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)).min())


def test_trunk_and_joint_space_are_open_clips(
    fp32: OpenClipTrunk, frames: NDArray[np.uint8], expected: tuple[Array, Array]
) -> None:
    trunk, joint = _encode(fp32, frames)
    assert trunk.shape == (8, 2048)
    assert joint.shape == (8, 1024)
    centre = expected[0].mean(0)
    assert _cosine(expected[0][:-1], expected[0][1:]) < 0.99  # the photographs' vectors do differ
    assert _cosine(trunk, expected[0]) > 0.9999
    assert _cosine(joint, expected[1]) > 0.9999
    assert _cosine(trunk - centre, expected[0] - centre) > 0.9999  # what the photographs do not have in common


def test_preprocessing_is_open_clips(fp32: OpenClipTrunk, frames: NDArray[np.uint8], photos: Photos) -> None:
    transform = open_clip.image_transform(224, is_train=False)
    theirs = torch.stack([transform(photo) for photo in list(photos.values())[:8]])
    assert fp32._trunk is not None
    ours = fp32._trunk.normalise(torch.tensor(frames))
    assert (ours - theirs).abs().max() < 1e-5
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_bf16_keeps_the_direction_of_both_spaces(
    directory: Path, frames: NDArray[np.uint8], expected: tuple[Array, Array]
) -> None:
    encoder = OpenClipTrunk(_settings(directory, precision="bf16", text_tower=False))
    encoder.load()
    trunk, joint = _encode(encoder, frames)
    assert trunk.dtype == joint.dtype == np.float32
    # random layers multiply rounding errors more than trained ones: the bounds are loose for that reason
    centre = expected[0].mean(0)
    assert _cosine(trunk, expected[0]) > 0.998
    assert _cosine(joint, expected[1]) > 0.99
    assert _cosine(trunk - centre, expected[0] - centre) > 0.98
    with pytest.raises(NotFound):
        encoder.embed_text(["a cat"])


def test_what_shares_a_batch_changes_nothing(fp32: OpenClipTrunk, frames: NDArray[np.uint8]) -> None:
    alone, _ = _encode(fp32, frames[:3])
    other, together = fp32.encode([frames[3:], frames[:3]])
    assert isinstance(other, Embeddings)
    assert isinstance(together, Embeddings)
    assert _cosine(alone, together.vectors) > 0.999999
    assert np.abs(alone - together.vectors).max() < 1e-4 * np.abs(alone).max()


def test_text_reaches_the_joint_space_as_open_clip_puts_it(fp32: OpenClipTrunk, original: Any) -> None:
    texts = ["a photo of a cat", "एक बिल्ली", "word " * 200]
    with torch.inference_mode():
        expected = original.encode_text(open_clip.get_tokenizer("RN50")(texts)).numpy()
    embeddings = [e for e in fp32.embed_text(texts) if isinstance(e, TextEmbedding)]
    ours = np.stack([e.vector for e in embeddings])
    assert ours.shape == (3, 1024)
    assert _cosine(ours, expected) > 0.9999
    assert [e.truncated for e in embeddings] == [False, False, True]
    assert embeddings[0].tokens == 7  # five words between start and end


def test_a_training_checkpoint_loads_as_well(original: Any, tmp_path: Path, frames: NDArray[np.uint8]) -> None:
    path = tmp_path / "epoch_1.pt"
    wrapped = {f"module.{name}": tensor for name, tensor in original.state_dict().items()}
    torch.save({"epoch": 1, "name": "run", "state_dict": wrapped}, path)
    encoder = OpenClipTrunk(_settings(path))
    encoder.load()
    assert encoder.card.weights == "pretrained"
    assert encoder.card.version.startswith("epoch_1.pt-")
    assert _encode(encoder, frames[:1])[0].shape == (1, encoder.card.dimension)


def test_every_mismatch_is_an_error_that_names_the_file_and_the_tensors(original: Any, tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in original.state_dict().items()}
    state["visual.conv1.weight"] = state["visual.conv1.weight"][:16].contiguous()
    state["visual.surplus"] = torch.zeros(1)
    del state["visual.bn1.weight"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WrongWeights) as caught:
        OpenClipTrunk(_settings(tmp_path / "other.safetensors")).load()
    for part in ("other.safetensors", "visual.conv1.weight", "visual.surplus", "visual.bn1.weight"):
        assert part in str(caught.value)


def test_a_truncated_file_is_an_error_that_names_it(directory: Path, tmp_path: Path) -> None:
    whole = (directory / "open_clip_model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WrongWeights, match=r"half\.safetensors"):
        OpenClipTrunk(_settings(tmp_path / "half.safetensors")).load()


def test_what_is_neither_file_nor_tag_is_an_error_that_lists_the_tags(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="openai"):
        OpenClipTrunk(_settings(tmp_path / "absent.pt")).load()
    with pytest.raises(MissingWeights, match=r"open_clip_model\.safetensors"):
        OpenClipTrunk(_settings(tmp_path)).load()


def test_random_weights_are_had_only_by_asking_and_the_card_says_so() -> None:
    encoder = OpenClipTrunk(ClipSettings(model="open-clip", weights="random", precision="fp32"))
    encoder.load()
    assert encoder.card.weights == "random"
    assert encoder.card.sha256 is None
