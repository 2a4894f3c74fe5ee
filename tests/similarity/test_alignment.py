"""Which seconds of one video are another's, and in their order: shifted, cut, reversed, shuffled, still, unrelated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deployments.similarity.content import FrameSignatures
from deployments.similarity.uses.alignment import Alignment, Order, align_signatures, align_vectors
from deployments.similarity.values import FrameVectors

Vectors = NDArray[np.float32]
SEEDS = st.integers(0, 2**32)
THRESHOLD = 0.9


def film(seed: int, frames: int, dimension: int = 64) -> Vectors:
    """Frames that have nothing in common."""
    return np.random.default_rng(seed).standard_normal((frames, dimension)).astype(np.float32)


def shown(vectors: Vectors, start_s: float = 0.0, step_s: float = 1.0, noise: float = 0.0) -> FrameVectors:
    disturbed = vectors + noise * np.random.default_rng(7).standard_normal(vectors.shape)
    times_s = start_s + step_s * np.arange(len(vectors))
    return FrameVectors(disturbed.astype(np.float16), times_s.astype(np.float32))


def aligned(
    query: Vectors, other: Vectors, duration_s: float | None = None, other_duration_s: float | None = None
) -> Alignment:
    return align_vectors(
        shown(query, noise=0.1), shown(other), THRESHOLD, duration_s=duration_s, other_duration_s=other_duration_s
    )


@given(SEEDS, st.integers(3, 40))
def test_a_video_aligns_with_itself(seed: int, frames: int) -> None:
    vectors = film(seed, frames)
    found = aligned(vectors, vectors, duration_s=frames + 0.5, other_duration_s=frames + 0.5)
    (segment,) = found.segments
    assert (segment.start_s, segment.other_start_s) == (0.0, 0.0)
    assert segment.end_s == segment.other_end_s == frames
    assert found.order is Order.AGREES
    assert found.matches


@given(SEEDS, st.integers(3, 20), st.integers(0, 30), st.integers(0, 30))
def test_an_excerpt_is_found_where_it_was_taken(seed: int, length: int, before: int, after: int) -> None:
    whole = film(seed, before + length + after)
    found = aligned(whole[before : before + length], whole)
    (segment,) = found.segments
    assert (segment.start_s, segment.end_s) == (0.0, length)
    assert (segment.other_start_s, segment.other_end_s) == (before, before + length)
    assert found.order is Order.AGREES


@given(SEEDS, st.integers(3, 20), st.integers(0, 20), st.integers(0, 20))
def test_a_work_inside_other_footage_is_found(seed: int, length: int, before: int, after: int) -> None:
    work = film(seed, length)
    query = np.concatenate([film(seed + 1, before), work, film(seed + 2, after)])
    found = aligned(query, work)
    (segment,) = found.segments
    assert (segment.start_s, segment.other_start_s) == (before, 0.0)
    assert found.matched_s == found.other_matched_s == length
    assert found.order is Order.AGREES


@given(SEEDS, st.integers(4, 40))
def test_a_reversed_video_fails_the_order(seed: int, frames: int) -> None:
    vectors = film(seed, frames)
    found = aligned(vectors[::-1], vectors)
    assert found.resembling == 1.0
    assert found.order is Order.DISAGREES
    assert found.segments == ()
    assert not found.matches


@given(SEEDS)
def test_a_shuffled_video_fails_the_order(seed: int) -> None:
    vectors = film(seed, 40)
    order = np.random.default_rng(seed).permutation(40)
    found = aligned(vectors[order], vectors)
    assert found.resembling == 1.0
    assert found.order is Order.DISAGREES


@given(SEEDS, st.integers(1, 40), st.integers(1, 40))
def test_unrelated_videos_have_nothing_in_common(seed: int, frames: int, others: int) -> None:
    found = aligned(film(seed, frames), film(seed + 1, others))
    assert found.segments == ()
    assert found.resembling == found.matched_s == 0.0
    assert not found.matches


@given(SEEDS, st.integers(2, 40), st.integers(2, 40))
def test_the_order_of_a_still_cannot_be_tested(seed: int, frames: int, others: int) -> None:
    still = film(seed, 1)
    found = aligned(np.repeat(still, frames, axis=0), np.repeat(still, others, axis=0))
    assert found.order is Order.UNTESTABLE
    assert found.matches
    assert found.other_matched_s >= min(frames, others)


def slow_film(frames: int) -> Vectors:
    """Every frame resembles every other, the nearer the more: somebody who talks to the camera."""
    drift = np.cumsum(np.random.default_rng(0).standard_normal((frames, 64)), axis=0)
    return np.asarray(8 * np.random.default_rng(1).standard_normal(64) + drift, np.float32)


def test_a_slow_video_backwards_is_noticed_though_all_its_frames_resemble_each_other() -> None:
    vectors = slow_film(20)
    forwards = align_vectors(shown(vectors), shown(vectors), THRESHOLD)
    backwards = align_vectors(shown(vectors[::-1]), shown(vectors), THRESHOLD)
    assert forwards.resembling == backwards.resembling == 1.0
    assert forwards.order is Order.AGREES
    assert backwards.order is Order.DISAGREES
    assert not backwards.matches


def test_a_still_in_the_middle_does_not_hide_the_order() -> None:
    vectors = film(0, 20)
    vectors[8:13] = vectors[8]
    found = aligned(vectors, vectors)
    assert len(found.segments) == 1
    assert found.order is Order.AGREES
    assert aligned(vectors[::-1], vectors).order is Order.DISAGREES


@given(SEEDS, st.floats(0.0, 1.0))
def test_sampling_that_begins_elsewhere_changes_nothing(seed: int, phase_s: float) -> None:
    """Half a second off, each frame is still nearest to its own: neighbouring frames are alike in a real film."""
    rng = np.random.default_rng(seed)
    scenes = rng.standard_normal((14, 64))
    at = np.arange(0, 12, 1.0) + phase_s

    def blend(at_s: NDArray[np.float64]) -> NDArray[np.float64]:
        which, share = at_s.astype(int), (at_s % 1)[:, None]
        return np.asarray(scenes[which] * (1 - share) + scenes[which + 1] * share)

    query = FrameVectors(blend(at).astype(np.float16), np.arange(12, dtype=np.float32))
    other = FrameVectors(blend(np.arange(0, 13, 1.0)).astype(np.float16), np.arange(13, dtype=np.float32))
    found = align_vectors(query, other, 0.6)
    assert found.order is Order.AGREES
    assert found.matched_s >= 11


@pytest.mark.parametrize("speed", [0.9, 0.95, 1.05, 1.1])
def test_a_video_played_faster_or_slower_is_one_segment(speed: float) -> None:
    vectors = film(3, 60)
    other = shown(vectors)
    query = FrameVectors(other.vectors, other.times_s / np.float32(speed))
    found = align_vectors(query, other, THRESHOLD)
    (segment,) = found.segments
    assert segment.other_end_s - segment.other_start_s == 60
    assert segment.end_s - segment.start_s == pytest.approx(60 / speed, rel=0.02)
    assert found.order is Order.AGREES


def test_a_loop_is_several_segments_of_the_same_seconds() -> None:
    vectors = film(4, 5)
    found = aligned(np.tile(vectors, (3, 1)), vectors)
    assert [(s.start_s, s.end_s) for s in found.segments] == [(0, 5), (5, 10), (10, 15)]
    assert {(s.other_start_s, s.other_end_s) for s in found.segments} == {(0.0, 5.0)}
    assert (found.matched_s, found.other_matched_s) == (15, 5)


def test_scenes_in_another_order_are_segments_of_their_own() -> None:
    vectors = film(5, 30)
    found = aligned(np.concatenate([vectors[20:30], vectors[0:10]]), vectors)
    assert [(s.start_s, s.other_start_s, s.other_end_s) for s in found.segments] == [(0, 20, 30), (10, 0, 10)]
    assert found.order is Order.AGREES


def test_frames_that_fail_to_match_are_bridged_and_long_gaps_are_not() -> None:
    vectors, query = film(6, 30), film(6, 30)
    query[10:12] = film(7, 2)
    assert len(aligned(query, vectors).segments) == 1
    query[10:16] = film(7, 6)
    assert [(s.start_s, s.end_s) for s in aligned(query, vectors).segments] == [(0, 10), (16, 30)]


def test_chance_resemblances_of_single_frames_are_not_a_match() -> None:
    query, other = film(8, 30), film(9, 30)
    query[[3, 9, 20]] = other[[25, 2, 11]]
    found = aligned(query, other)
    assert found.segments == ()
    assert not found.matches


def test_one_picture_found_in_a_video() -> None:
    vectors = film(10, 12)
    found = aligned(vectors[5:6], vectors)
    (segment,) = found.segments
    assert (segment.other_start_s, segment.other_end_s) == (5, 6)
    assert found.order is Order.UNTESTABLE
    assert found.matches


def test_sparse_frames_of_a_long_video_carry_a_short_excerpt() -> None:
    """Four hours in 60 frames against ten minutes in 60: one frame here is 24 there."""
    minutes = film(11, 240)
    other = FrameVectors(minutes[::4].astype(np.float16), (240.0 * np.arange(60)).astype(np.float32))
    frames = np.repeat(minutes[80:100], 3, axis=0)
    query = FrameVectors(frames.astype(np.float16), (20.0 * np.arange(60)).astype(np.float32))
    found = align_vectors(query, other, THRESHOLD, duration_s=1200, other_duration_s=14400)
    assert found.segments
    assert found.segments[0].other_start_s == pytest.approx(4800)


@given(SEEDS, st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=60)
def test_whatever_resembles_the_answer_is_sound(seed: int, frames: int, others: int) -> None:
    rng = np.random.default_rng(seed)
    few = film(seed, 4)  # many frames repeat
    found = aligned(
        few[rng.integers(0, 4, frames)], few[rng.integers(0, 4, others)], duration_s=frames, other_duration_s=others
    )
    assert 0 <= found.matched_s <= frames
    assert 0 <= found.other_matched_s <= others
    assert 0 <= found.explained <= 1
    for segment in found.segments:
        assert 0 <= segment.start_s < segment.end_s <= frames
        assert 0 <= segment.other_start_s < segment.other_end_s <= others
    spans = [(segment.start_s, segment.end_s) for segment in found.segments]
    assert spans == sorted(spans)


# PDQ signatures: only frames that differ from the one before have one, and it lasts until the next


def signed(hashes: NDArray[np.uint8], times_s: list[float], quality: int = 100) -> FrameSignatures:
    return FrameSignatures(hashes, np.full(len(hashes), quality, np.uint8), np.array(times_s, np.float32))


def hashes_of(seed: int, count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def test_signatures_stand_for_the_seconds_until_the_next() -> None:
    hashes = hashes_of(0, 4)
    whole = signed(hashes, [0, 10, 12, 13])
    part = signed(hashes[:3], [0, 7, 9])  # the first three seconds are cut off, and the end
    found = align_signatures(part, whole, duration_s=10, other_duration_s=20)
    (segment,) = found.segments
    assert (segment.start_s, segment.end_s) == (0, 10)
    assert (segment.other_start_s, segment.other_end_s) == (3, 13)
    assert found.order is Order.AGREES


def test_reversed_signatures_fail_the_order() -> None:
    hashes = hashes_of(1, 8)
    times_s = [float(n) for n in range(8)]
    assert align_signatures(signed(hashes, times_s), signed(hashes, times_s)).order is Order.AGREES
    assert align_signatures(signed(hashes[::-1], times_s), signed(hashes, times_s)).order is Order.DISAGREES


def test_signatures_further_apart_than_the_threshold_do_not_match() -> None:
    hashes, times_s = hashes_of(2, 6), [float(n) for n in range(6)]
    for bits, expected in ((31, True), (32, False)):
        other = hashes ^ np.packbits(np.arange(256) < bits)
        assert align_signatures(signed(hashes, times_s), signed(other, times_s)).matches is expected


def test_signatures_of_low_quality_do_not_match() -> None:
    hashes, times_s = hashes_of(3, 6), [float(n) for n in range(6)]
    assert not align_signatures(signed(hashes, times_s, quality=49), signed(hashes, times_s)).matches


def test_two_still_pictures() -> None:
    one = hashes_of(4, 1)
    found = align_signatures(signed(one, [0]), signed(one, [0]))
    assert len(found.segments) == 1
    assert found.order is Order.UNTESTABLE
    assert not align_signatures(signed(one, [0]), signed(hashes_of(5, 1), [0])).matches


def test_no_signatures_match_nothing() -> None:
    none = signed(np.zeros((0, 32), np.uint8), [])
    assert not align_signatures(none, signed(hashes_of(6, 3), [0, 1, 2])).matches
