"""Frames of several posts in shared forward passes, by the fake encoder and by arithmetic."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.clip.fake import FakeVisualEncoder
from deployments.clip.frames import Columns, Frames, encode_together, to_embeddings
from deployments.clip.registry import ENCODERS, frame_spec, make_encoder
from deployments.clip.settings import ClipSettings, VisualModel
from deployments.runtime.errors import InvalidInput, NodeUnavailable
from deployments.runtime.values import Embeddings


def _numbered(first: int, count: int) -> Frames:
    frames = np.zeros((count, 2, 2, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(first, first + count)
    return frames


def _first_pixel(frames: Frames) -> Columns:
    return {"vectors": frames[:, 0, 0, :1].astype(np.float32)}


@given(counts=st.lists(st.integers(0, 5), max_size=8), max_batch_frames=st.integers(1, 9))
def test_every_post_gets_its_own_rows_or_its_own_error_whatever_shares_the_batch(
    counts: list[int], max_batch_frames: int
) -> None:
    starts = np.cumsum([0, *counts])
    items = [_numbered(int(start), count) for start, count in zip(starts, counts, strict=False)]
    results = encode_together(items, 2, max_batch_frames, _first_pixel)
    assert len(results) == len(items)
    for item, result in zip(items, results, strict=True):
        if len(item) == 0:
            assert isinstance(result, InvalidInput)
        else:
            assert not isinstance(result, InvalidInput)
            assert result["vectors"][:, 0].tolist() == item[:, 0, 0, 0].tolist()


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=4), max_batch_frames=st.integers(1, 16))
def test_no_forward_pass_is_larger_than_its_bound(counts: list[int], max_batch_frames: int) -> None:
    seen: list[int] = []

    def forward(frames: Frames) -> Columns:
        seen.append(len(frames))
        return _first_pixel(frames)

    encode_together([_numbered(0, count) for count in counts], 2, max_batch_frames, forward)
    assert max(seen) <= max_batch_frames
    assert sum(seen) == sum(counts)
    assert len(seen) == -(-sum(counts) // max_batch_frames)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((0, 224, 224, 3), np.uint8),
        np.zeros((1, 224, 224, 3), np.float32),
        np.zeros((1, 224, 223, 3), np.uint8),
        np.zeros((224, 224, 3), np.uint8),
        np.zeros((1, 224, 224, 4), np.uint8),
        "not an array",
    ],
)
def test_a_post_of_wrong_frames_fails_alone(wrong: Frames) -> None:
    encoder = FakeVisualEncoder()
    before, error, after = encoder.encode([encoder.example(), wrong, encoder.example()])
    assert isinstance(error, InvalidInput)
    assert error.status == 400
    assert isinstance(before, Embeddings)
    assert isinstance(after, Embeddings)


@pytest.mark.parametrize("name", ["vectors", "joint", "evidence"])
def test_a_number_that_is_not_finite_fails_its_own_post_and_blames_the_encoder(name: str) -> None:
    def damaged(frames: Frames) -> Columns:
        columns = {column: frames[:, 0, 0, :1].astype(np.float32) for column in ("vectors", "joint", "evidence")}
        columns[name][frames[:, 0, 0, 0] == 3] = np.nan
        return columns

    shared = encode_together([_numbered(0, 2), _numbered(2, 2), _numbered(4, 2)], 2, 8, damaged)
    before, error, after = (to_embeddings(columns) for columns in shared)
    assert isinstance(error, NodeUnavailable)
    assert isinstance(before, Embeddings)
    assert isinstance(after, Embeddings)


def test_the_fake_tells_colours_apart_and_leaves_read_only_frames_alone() -> None:
    encoder = FakeVisualEncoder()
    red = np.zeros((2, 224, 224, 3), np.uint8)
    red[..., 0] = 255
    red.flags.writeable = False
    (result,) = encoder.encode([red])
    assert isinstance(result, Embeddings)
    assert result.vectors.shape == (2, encoder.card.dimension)
    assert result.vectors[0, :3].tolist() == [1.0, 0.0, 0.0]
    assert encoder.card.weights == "random"


def test_every_model_of_the_settings_is_registered_with_the_geometry_its_encoder_says() -> None:
    assert set(ENCODERS) == set(get_args(VisualModel))
    for model in get_args(VisualModel):
        settings = ClipSettings(model=model, checkpoint="openai" if model == "open-clip" else None)
        assert make_encoder(settings).frame_spec == frame_spec(settings)


def test_the_media_node_learns_the_geometry_without_a_model_library() -> None:
    code = (
        "import sys; from deployments.clip.registry import frame_spec; from deployments.clip.settings import *;"
        "print(frame_spec(ClipSettings(model='open-clip', architecture='RN50x4', checkpoint='openai')).crop);"
        "print(sorted({'torch', 'open_clip', 'openvino', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["288", "[]"]


@pytest.mark.parametrize(
    "values",
    [
        {"model": "opennsfw", "device": "cuda"},
        {"model": "open-clip"},
        {"model": "opennsfw", "weights": "random"},
        {"model": "resnet"},
        {"max_batch_frames": 0},
        {"max_batch_frame": 8},
    ],
)
def test_settings_that_cannot_work_are_refused_when_read(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ClipSettings.model_validate(values)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in ClipSettings.model_fields.values())
