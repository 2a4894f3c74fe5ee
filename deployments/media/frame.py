"""A frame that is looked at: what the encoder sees of it, and a signature of all of it.

The encoder's geometry crops; a signature that others may have put on a list is of the whole picture, so it is taken
here, from the decoded frame, before the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.media.geometry import fit
from deployments.media.pdq import MIN_QUALITY, Signature, signature
from deployments.media.settings import MediaSettings
from deployments.runtime.values import FrameSpec


@dataclass(frozen=True)
class Frame:
    pixels: NDArray[np.uint8]  # (crop, crop, 3)
    signature: Signature | None = None  # None where signatures are switched off


@dataclass(frozen=True)
class Signatures:
    hashes: NDArray[np.uint8]  # (n, 32)
    quality: NDArray[np.uint8]  # (n,) 0..100
    times_s: NDArray[np.float32]  # (n,), rising: each signature stands for the time until the next


def look(picture: Image.Image, spec: FrameSpec, settings: MediaSettings, pixel_aspect: float = 1.0) -> Frame:
    """`picture` is RGB, upright and whole, its pixels shown `pixel_aspect` times as wide as high."""
    return Frame(fit(picture, spec, pixel_aspect), signature(picture) if settings.signatures else None)


def distinct_signatures(
    frames: Sequence[Frame], times_s: NDArray[np.float32], settings: MediaSettings
) -> Signatures | None:
    """Of frames in order of time: one signature where following frames look alike, an even spread of what is left."""
    seen = [(at_s, frame.signature) for at_s, frame in zip(times_s, frames, strict=True) if frame.signature]
    if not seen:
        return None
    kept = seen[:1]
    for at_s, one in seen[1:]:
        if not _alike(kept[-1][1], one, settings.signature_distance):
            kept.append((at_s, one))
    if len(kept) > settings.max_signatures:
        kept = [kept[i] for i in np.linspace(0, len(kept) - 1, settings.max_signatures).round().astype(int)]
    return Signatures(
        np.stack([one.bits for _, one in kept]),
        np.array([one.quality for _, one in kept], np.uint8),
        np.array([at_s for at_s, _ in kept], np.float32),
    )


def _alike(one: Signature, other: Signature, bits: int) -> bool:
    if max(one.quality, other.quality) < MIN_QUALITY:  # neither will match anything
        return True
    return int(np.bitwise_count(one.bits ^ other.bits).sum()) <= bits
