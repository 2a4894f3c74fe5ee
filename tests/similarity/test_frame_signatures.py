"""Signatures of frames: the quality gate, distances, what is indexed of many, mirrored queries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from deployments.media.pdq import signature
from deployments.runtime.errors import InvalidInput
from deployments.similarity.content import FrameSignatures
from deployments.similarity.uses.signatures import distances, frame_signatures, mirrored, nearest, spread, trusted
from tests.media.record_pdq import pictures


def bits(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (count, 32), dtype=np.uint8)


def flipped(hashes: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The first `count` bits of each inverted."""
    mask = np.packbits(np.arange(256) < count)
    return hashes ^ mask


def made(hashes: NDArray[np.uint8], quality: int | list[int] = 100) -> FrameSignatures:
    worth = np.full(len(hashes), quality) if isinstance(quality, int) else np.array(quality)
    found = frame_signatures(hashes, worth.astype(np.uint8), np.arange(len(hashes), dtype=np.float32))
    assert found is not None
    return found


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 6), st.integers(0, 256))
def test_distances_are_counted_bits(seed: int, n: int, m: int, differing: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = bits(rng, n), bits(rng, m)
    other[0] = flipped(one[:1], differing)[0]
    table = distances(one, other)
    assert table.shape == (n, m)
    assert table[0, 0] == differing
    expected = [[int(np.unpackbits(a ^ b).sum()) for b in other] for a in one]
    assert table.tolist() == expected


def test_frames_of_low_quality_never_match() -> None:
    hashes = bits(np.random.default_rng(0), 2)
    assert nearest(made(hashes, [49, 49]), made(hashes)) is None
    found = nearest(made(hashes, [49, 50]), made(hashes))
    assert found is not None
    assert (found.distance, found.time_s, found.other_time_s) == (0, 1.0, 1.0)
    assert len(trusted(made(hashes, [49, 50])).hashes) == 1


def test_the_nearest_pair_says_when() -> None:
    rng = np.random.default_rng(1)
    one, other = bits(rng, 5), bits(rng, 7)
    other[6] = flipped(one[2:3], 17)[0]
    found = nearest(made(one), made(other))
    assert found is not None
    assert (found.distance, found.time_s, found.other_time_s) == (17, 2.0, 6.0)


def test_nothing_is_near_to_nothing() -> None:
    empty = made(np.zeros((0, 32), np.uint8))
    assert nearest(empty, made(bits(np.random.default_rng(0), 1))) is None
    assert len(spread(empty, 3).hashes) == 0


def test_what_is_indexed_of_many_differs_most() -> None:
    rng = np.random.default_rng(2)
    scenes = bits(rng, 4)
    frames = np.concatenate([flipped(scene[None], n) for scene in scenes for n in (0, 3, 6)])
    kept = spread(made(frames), 4)
    assert sorted({int(t) // 3 for t in kept.times_s}) == [0, 1, 2, 3]
    assert (np.diff(kept.times_s) > 0).all()


def test_equal_signatures_are_indexed_once_and_bad_ones_never() -> None:
    one = bits(np.random.default_rng(3), 1)
    assert len(spread(made(np.repeat(one, 9, axis=0)), 5).hashes) == 1
    assert len(spread(made(np.repeat(one, 3, axis=0), [10, 20, 30]), 5).hashes) == 0


def test_a_mirrored_photo_is_found_by_mirroring_its_bits() -> None:
    off = {}
    for name, picture in pictures().items():
        if name.startswith(("generated", "page", "phantom")):
            continue
        turned = signature(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).bits
        off[name] = int(distances(mirrored(signature(picture).bits[None]), turned[None])[0, 0])
    assert max(off.values()) <= 22, off
    assert np.median(list(off.values())) <= 12, off


def test_mirroring_twice_changes_nothing() -> None:
    hashes = bits(np.random.default_rng(4), 3)
    assert (mirrored(mirrored(hashes)) == hashes).all()


@pytest.mark.parametrize(
    ("hashes", "quality", "times_s"),
    [
        (np.zeros((2, 31), np.uint8), [1, 1], [0, 1]),
        (np.zeros((2, 32), np.int64), [1, 1], [0, 1]),
        (np.zeros(32, np.uint8), [1], [0]),
        (np.zeros((2, 32), np.uint8), [1], [0, 1]),
        (np.zeros((2, 32), np.uint8), [1, 101], [0, 1]),
        (np.zeros((2, 32), np.uint8), [0.5, 1], [0, 1]),
        (np.zeros((2, 32), np.uint8), [1, 1], [0, float("nan")]),
        (np.zeros((2, 32), np.uint8), [1, 1], [0]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(hashes: NDArray[np.uint8], quality: list[int], times_s: list[int]) -> None:
    with pytest.raises(InvalidInput):
        frame_signatures(hashes, np.array(quality), np.array(times_s))


def test_media_without_signatures_has_none() -> None:
    assert frame_signatures(None, None, None) is None
