"""PDQ signatures of a post's frames: which of them may be trusted, which to index, and how near two posts come.

The media node makes them (deployments/media/pdq.py); here they are bits that are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput
from deployments.similarity.content import FrameSignatures

BYTES = 32
MIN_QUALITY = 50
"""Signatures of less quality say nothing and never match (the PDQ paper's recommendation)."""
MATCH_BITS = 31
"""Distance that the PDQ paper recommends as a match; unrelated pictures lie around 128."""
_EVERY_OTHER_COLUMN = np.uint8(0x55)


@dataclass(frozen=True)
class NearestPair:
    """The two frames of two posts that resemble each other most."""

    distance: int  # bits, 0..256
    time_s: float
    other_time_s: float


def frame_signatures(
    hashes: NDArray[Any] | None, quality: NDArray[Any] | None, times_s: NDArray[Any] | None
) -> FrameSignatures | None:
    """The media node's arrays as one value, None where it made none. Raises InvalidInput."""
    if hashes is None or quality is None or times_s is None:
        return None
    bits, worth, at_s = np.asarray(hashes), np.asarray(quality), np.asarray(times_s)
    if bits.dtype != np.uint8 or bits.ndim != 2 or bits.shape[1] != BYTES:
        raise InvalidInput("Signatures are (n, 32) uint8.", param="signatures")
    if worth.shape != (len(bits),) or worth.dtype.kind not in "iu" or not ((worth >= 0) & (worth <= 100)).all():
        raise InvalidInput("Each signature has a quality from 0 to 100.", param="signatures")
    if at_s.shape != (len(bits),) or at_s.dtype.kind not in "fiu" or not np.isfinite(at_s).all():
        raise InvalidInput("Each signature has a time in seconds.", param="signatures")
    return FrameSignatures(bits, worth.astype(np.uint8), at_s.astype(np.float32))


def trusted(signatures: FrameSignatures, min_quality: int = MIN_QUALITY) -> FrameSignatures:
    """Those that may match."""
    return _taken(signatures, np.flatnonzero(signatures.quality >= min_quality))


def distances(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """(n, 32) and (m, 32) -> (n, m) differing bits."""
    words, other_words = (np.ascontiguousarray(hashes).view(np.uint64) for hashes in (one, other))  # (n, 4), (m, 4)
    differing: NDArray[np.uint16] = np.bitwise_count(words[:, None] ^ other_words[None]).sum(axis=2, dtype=np.uint16)
    return differing


def nearest(one: FrameSignatures, other: FrameSignatures, min_quality: int = MIN_QUALITY) -> NearestPair | None:
    """None where either has no signature that may match. Of equal pairs the earliest."""
    one, other = trusted(one, min_quality), trusted(other, min_quality)
    if not len(one.hashes) or not len(other.hashes):
        return None
    table = distances(one.hashes, other.hashes)
    i, j = np.unravel_index(int(table.argmin()), table.shape)
    return NearestPair(int(table[i, j]), float(one.times_s[i]), float(other.times_s[j]))


def spread(signatures: FrameSignatures, count: int, min_quality: int = MIN_QUALITY) -> FrameSignatures:
    """At most `count` trusted signatures that differ from each other as much as they can, in order of time.

    The best is taken first, then always the one farthest from all taken (Gonzalez 1985): what is left out lies near
    something that is in. Equal ones are taken once.
    """
    good = trusted(signatures, min_quality)
    if not len(good.hashes) or count < 1:
        return _taken(good, np.zeros(0, np.intp))
    chosen = [int(good.quality.argmax())]
    gap = distances(good.hashes, good.hashes[chosen])[:, 0]
    while len(chosen) < count and gap.max() > 0:
        chosen.append(int(gap.argmax()))
        gap = np.minimum(gap, distances(good.hashes, good.hashes[chosen[-1:]])[:, 0])
    return _taken(good, np.sort(chosen))


def mirrored(hashes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 32) -> (n, 32): about what the left-right mirrored pictures' signatures would be.

    Mirroring changes the sign of every odd frequency across, and the bits are signs but for the median, which is near
    zero: so every other bit is inverted. Photos: 2 to 22 bits off (median 11), because PDQ samples a little off centre;
    textures that repeat: up to 128.
    """
    inverted: NDArray[np.uint8] = np.asarray(hashes, np.uint8) ^ _EVERY_OTHER_COLUMN
    return inverted


def mirror(signatures: FrameSignatures) -> FrameSignatures:
    """About what those of the mirrored film would be (`mirrored`)."""
    return FrameSignatures(mirrored(signatures.hashes), signatures.quality, signatures.times_s)


def _taken(signatures: FrameSignatures, which: NDArray[np.intp]) -> FrameSignatures:
    return FrameSignatures(signatures.hashes[which], signatures.quality[which], signatures.times_s[which])
