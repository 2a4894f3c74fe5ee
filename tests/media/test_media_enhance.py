"""Enhancement: what is dark gets lighter, what is noisy gets smoother, what is good stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data as photos

from deployments.media.enhance import denoised, enhance, is_dark, is_noisy
from deployments.media.geometry import fit
from deployments.runtime.values import FrameSpec


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    """Three good photos."""
    pictures = (photos.astronaut(), photos.coffee(), photos.chelsea())
    return np.stack([fit(Image.fromarray(picture), FrameSpec()) for picture in pictures])


def noisy(frames: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(0, sigma, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def test_off_is_the_same_array(frames: NDArray[np.uint8]) -> None:
    assert enhance(frames, "off") is frames


def test_clahe_brightens_a_dark_frame(frames: NDArray[np.uint8]) -> None:
    dark = (frames * 0.25).astype(np.uint8)
    lighter = enhance(dark, "clahe")
    assert lighter.shape == dark.shape
    assert lighter.dtype == np.uint8
    assert lighter.mean() > 1.3 * dark.mean()


def test_auto_leaves_good_frames_untouched_bit_for_bit(frames: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(enhance(frames, "auto"), frames)


def test_auto_treats_only_the_dark_frame(frames: NDArray[np.uint8]) -> None:
    mixed = frames.copy()
    mixed[1] = (mixed[1] * 0.25).astype(np.uint8)
    treated = enhance(mixed, "auto")
    np.testing.assert_array_equal(treated[[0, 2]], mixed[[0, 2]])
    assert treated[1].mean() > 1.3 * mixed[1].mean()


def test_auto_smooths_a_noisy_frame(frames: NDArray[np.uint8]) -> None:
    grainy = noisy(frames, 20)
    treated = enhance(grainy, "auto")
    before = np.square(grainy.astype(float) - frames).mean()
    assert np.square(treated.astype(float) - frames).mean() < 0.6 * before


def test_nlm_is_the_denoiser(frames: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(enhance(frames[:1], "nlm")[0], denoised(frames[0]))


def test_texture_is_not_taken_for_noise() -> None:
    for photo in (photos.grass(), photos.gravel(), photos.brick()):
        frame = fit(Image.fromarray(photo).convert("RGB"), FrameSpec())
        assert not is_noisy(frame)
        assert not is_dark(frame)
