"""A picture of any size in, one uint8 frame of the encoder's geometry out, resized once.

Pillow does it, antialiased: it is what open_clip's own transform calls, so the result is that transform's, bit for
bit. Only a picture so narrow that most of the resized one would be thrown away is resized under the crop alone
(`box`): Pillow may then take its two passes in the other order, which rounds differently by a few steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.runtime.values import FrameSpec

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_NARROW = 8  # times longer than wide: a 1 x 10000 picture would become 224 x 2240000


def resized_size(width: float, height: float, spec: FrameSpec) -> tuple[int, int]:
    """(width, height) after the resize and before the crop, rounded down as torchvision's Resize does."""
    if spec.mode == "stretch":
        return spec.resize, spec.resize
    if width <= height:
        return spec.resize, int(spec.resize * height / width)
    return int(spec.resize * width / height), spec.resize


def fit(picture: Image.Image, spec: FrameSpec, pixel_aspect: float = 1.0) -> NDArray[np.uint8]:
    """`picture` is RGB, its pixels shown `pixel_aspect` times as wide as high; returns (crop, crop, 3)."""
    width, height = resized_size(picture.width * pixel_aspect, picture.height, spec)
    left, top = round((width - spec.crop) / 2.0), round((height - spec.crop) / 2.0)
    right, bottom = left + spec.crop, top + spec.crop
    if max(width, height) <= _NARROW * spec.resize:
        frame = picture.resize((width, height), _FILTERS[spec.interpolation]).crop((left, top, right, bottom))
    else:
        x, y = picture.width / width, picture.height / height
        box = (left * x, top * y, min(right * x, picture.width), min(bottom * y, picture.height))
        frame = picture.resize((spec.crop, spec.crop), _FILTERS[spec.interpolation], box=box)
    return np.asarray(frame)
