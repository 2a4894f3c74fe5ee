"""PDQ: a 256-bit signature of what a picture looks like, and a quality that says what the signature is worth.

After "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm" (Facebook 2019): luminance -> two
passes of a box filter -> 64 x 64 -> the 16 x 16 lowest frequencies of its DCT but the constant one -> a bit each,
set where the coefficient lies above their median. Signatures of one picture differ by few of the 256 bits; 31 is the
distance the paper calls a match.

The filter is linear and only 64 x 64 of its results are used, so each is taken as one weighted mean of the pixels
around it. That is exact at any size; a picture made smaller first (as some tools do above 512 pixels) costs 2 to 20
bits, because which pixels are picked depends on the size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MIN_QUALITY = 50
"""Below it there is too little in the picture to tell it from others (the paper's recommendation)."""
_SIDE = 64  # of the smoothed picture
_LOW = 16  # frequencies kept each way
_DCT = np.sqrt(2 / _SIDE) * np.cos(
    np.pi / (2 * _SIDE) * np.outer(np.arange(1, _LOW + 1), 2 * np.arange(_SIDE) + 1)
).astype(np.float32)  # (16, 64): frequencies 1..16 of the DCT-II
_MEDIAN = _LOW * _LOW // 2 - 1  # the paper's median of an even number of values is the lower one
_FLAT = 0.1  # coefficients that differ by less come from rounding: such a picture has no bit set
_GRADIENT_PER_POINT = 90  # of quality; a gradient counts in percent of full swing


@dataclass(frozen=True)
class Signature:
    bits: NDArray[np.uint8]  # (32,), the first bit of the first byte is the highest: as hash lists write it in hex
    quality: int  # 0..100


def signature(picture: Image.Image) -> Signature:
    """`picture`: RGB or grey, upright and whole."""
    luminance = np.asarray(picture.convert("L"))  # ITU-R 601: .299 R + .587 G + .114 B
    smoothed = _smoothed(luminance)
    coefficients = (_DCT @ smoothed @ _DCT.T).ravel()
    threshold = np.partition(coefficients, _MEDIAN)[_MEDIAN]
    if np.ptp(coefficients) < _FLAT:
        threshold = np.float32(np.inf)
    return Signature(np.packbits((coefficients > threshold)[::-1]), _quality(smoothed))


def _smoothed(luminance: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(64, 64). Rows first: the windows hardly overlap, so each pixel becomes a float about once."""
    height, width = luminance.shape
    rows = np.stack([weights @ luminance[window].astype(np.float32) for window, weights in _windows(height)])
    across = np.zeros((width, _SIDE), np.float32)
    for column, (window, weights) in enumerate(_windows(width)):
        across[window, column] = weights
    smoothed: NDArray[np.float32] = rows @ across
    return smoothed


@lru_cache(maxsize=64)
def _windows(size: int) -> tuple[tuple[slice, NDArray[np.float32]], ...]:
    """For each of the 64 results along one axis of `size` pixels: which pixels, and what each counts.

    One box is ceil(size / 128) wide and cut off at the edges; the second pass takes the mean of the first's results.
    """
    width = -(-size // (2 * _SIDE))
    ahead = (width + 2) // 2 - 1  # an even width reaches one further ahead than back
    first = np.maximum(np.arange(size) - (width - 1 - ahead), 0)
    last = np.minimum(np.arange(size) + ahead, size - 1)
    windows = []
    for centre in ((np.arange(_SIDE) + 0.5) * size / _SIDE).astype(int):
        start, stop = first[first[centre]], last[last[centre]] + 1
        weights = np.zeros(stop - start)
        inner = range(first[centre], last[centre] + 1)
        for i in inner:
            weights[first[i] - start : last[i] + 1 - start] += 1.0 / (last[i] + 1 - first[i])
        windows.append((slice(int(start), int(stop)), (weights / len(inner)).astype(np.float32)))
    return tuple(windows)


def _quality(smoothed: NDArray[np.float32]) -> int:
    """How much the smoothed picture changes from pixel to pixel, 0..100."""
    changes = sum(int(np.abs((np.diff(smoothed, axis=axis) * 100 / 255).astype(int)).sum()) for axis in (0, 1))
    return min(100, changes // _GRADIENT_PER_POINT)
