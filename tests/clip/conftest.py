"""Real photographs from scikit-image and scikit-learn, and frames made of them as a FrameSpec says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

from deployments.runtime.values import FrameSpec

NAMES = ["astronaut", "chelsea", "coffee", "rocket", "camera", "coins", "hubble_deep_field", "immunohistochemistry"]
NAMES += ["brick", "grass", "gravel", "moon", "retina", "clock"]

MakeFrame = Callable[[Image.Image, FrameSpec], NDArray[np.uint8]]


@pytest.fixture(scope="session")
def photos() -> dict[str, Image.Image]:
    found = {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in NAMES}
    china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    return {**found, "china": china, "flower": flower}


@pytest.fixture(scope="session")
def make_frame() -> MakeFrame:
    return _make_frame


def _make_frame(image: Image.Image, spec: FrameSpec) -> NDArray[np.uint8]:
    """(crop, crop, 3), as torchvision's Resize and CenterCrop on a PIL image, or both sides stretched."""
    width, height = image.size
    if spec.mode == "stretch":
        size = (spec.resize, spec.resize)
    elif width <= height:
        size = (spec.resize, int(spec.resize * height / width))
    else:
        size = (int(spec.resize * width / height), spec.resize)
    resampling = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[spec.interpolation]
    resized = image.resize(size, resampling)
    left, top = round((resized.width - spec.crop) / 2), round((resized.height - spec.crop) / 2)
    return np.asarray(resized.crop((left, top, left + spec.crop, top + spec.crop)))
