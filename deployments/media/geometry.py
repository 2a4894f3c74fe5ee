"""A picture of any size in, one uint8 frame of the encoder's geometry out: resized once, straight to the crop.

Pillow does it, antialiased: it is what open_clip's own transform calls, so the result is the reference and not an
approximation. Only the part under the centre crop is computed (`box`); Pillow's filter still sees the pixels
beyond it, which makes the result bit-identical to resizing the whole picture and cropping it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.runtime.values import FrameSpec

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def resized_size(width: int, height: int, spec: FrameSpec) -> tuple[int, int]:
    """(width, height) after the resize and before the crop, rounded as torchvision's Resize rounds."""
    if spec.mode == "stretch":
        return spec.resize, spec.resize
    if width <= height:
        return spec.resize, int(spec.resize * height / width)
    return int(spec.resize * width / height), spec.resize


def crop_box(width: int, height: int, spec: FrameSpec) -> tuple[float, float, float, float]:
    """The part of the source picture, in its own pixels, that fills the crop after the resize."""
    new_width, new_height = resized_size(width, height, spec)
    left = round((new_width - spec.crop) / 2.0)
    top = round((new_height - spec.crop) / 2.0)
    x, y = width / new_width, height / new_height
    return left * x, top * y, (left + spec.crop) * x, (top + spec.crop) * y


def fit(picture: Image.Image, spec: FrameSpec) -> NDArray[np.uint8]:
    """`picture` is RGB; returns (crop, crop, 3)."""
    box = crop_box(picture.width, picture.height, spec)
    frame = picture.resize((spec.crop, spec.crop), _FILTERS[spec.interpolation], box=box)
    return np.asarray(frame)
