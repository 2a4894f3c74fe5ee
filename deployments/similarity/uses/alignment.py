"""Does one video really show another's frames, in their order, and which seconds? The check of a candidate.

Frames that resemble each other make a matrix (query's frames x other's frames). Seconds that were taken over lie on a
line in it: time in the other = speed x time in the query + offset. So: every pair votes for its offset -> the line
with most votes -> on it one frame of the other for each of the query's, never going back -> unbroken stretches ->
again, without the frames explained. A reversed or shuffled video resembles in every frame and has no such stretch;
where its frames hardly differ it has one, and fits better backwards.

The same for vectors (cosine) and for PDQ signatures (bits): both become strengths, 0 where two frames differ.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.content import FrameSignatures, MatchedSegment
from deployments.similarity.uses.signatures import MATCH_BITS, MIN_QUALITY, distances
from deployments.similarity.values import FrameVectors

MIN_FRAMES = 3
"""Frames of a stretch; two in a row match by chance where a third of all pairs does."""
SPEEDS = (1.0, 0.98, 1.02, 0.96, 1.04, 0.94, 1.06, 0.92, 1.08, 0.9, 1.1)
_SLACK = 0.75  # of a frame's distance: how far a pair may lie off the line; half is due to where sampling began
_SPEED_SHOWS = 8  # frames; in fewer, a speed of 10 % more or less stays within the slack
_FASTER_BY = 1.02  # another speed must gain so many times the votes of the original one
_MAX_BREAK = 3.0  # frames' distances within a stretch; up to two frames in it may fail to match
_MAX_SEGMENTS = 32
_MAX_FAILED = 4  # lines without a stretch, after which no other is looked for
_MAX_POINTS = 120  # of signatures laid out in time: twice as many as a post has by default
_CLEARLY = 0.05  # by which share forwards must fit better than backwards, for the order to be told


class Order(StrEnum):
    """Do the frames that resemble each other come in the same order?"""

    AGREES = "agrees"
    DISAGREES = "disagrees"
    UNTESTABLE = "untestable"  # a still, or frames that all look alike: any order fits


@dataclass(frozen=True)
class Alignment:
    segments: tuple[MatchedSegment, ...]  # in order of the query's time
    matched_s: float  # of the query, overlaps counted once
    other_matched_s: float
    order: Order
    resembling: float  # share of the query's frames that resemble any frame of the other
    explained: float  # share of those that lie on a segment

    @property
    def matches(self) -> bool:
        return bool(self.segments) and self.order is not Order.DISAGREES


@dataclass(frozen=True)
class _Line:
    """Pairs near one line, a frame of the query in one pair at most, times of both never falling."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]


def align_vectors(
    query: FrameVectors,
    other: FrameVectors,
    threshold: float,
    *,
    duration_s: float | None = None,
    other_duration_s: float | None = None,
    min_frames: int = MIN_FRAMES,
) -> Alignment:
    """`threshold`: cosine from which on two frames resemble each other, below 1. Vectors need not be normalised."""
    cosines = _normalised(query.vectors) @ _normalised(other.vectors).T
    above = (cosines - threshold) / max(1e-3, 1.0 - threshold)
    strengths = np.where(above >= 0, 0.5 + 0.5 * np.clip(above, 0, 1), 0.0)
    return align(strengths, query.times_s, other.times_s, duration_s, other_duration_s, min_frames=min_frames)


def align_signatures(
    query: FrameSignatures,
    other: FrameSignatures,
    max_bits: int = MATCH_BITS,
    *,
    duration_s: float | None = None,
    other_duration_s: float | None = None,
    min_quality: int = MIN_QUALITY,
    min_frames: int = 2,
) -> Alignment:
    """A signature stands for the time until the next one. Two in a row suffice: they hardly match by chance."""
    bits = distances(query.hashes, other.hashes)
    trusted = np.outer(query.quality >= min_quality, other.quality >= min_quality)
    strengths = np.where(trusted & (bits <= max_bits), 1.0 - 0.5 * bits / (max_bits + 1), 0.0)
    step_s = _common_step(query.times_s, other.times_s, duration_s, other_duration_s)
    rows, times_s = _held(query.times_s, duration_s, step_s)
    columns, other_times_s = _held(other.times_s, other_duration_s, step_s)
    held = strengths[np.ix_(rows, columns)]
    return align(held, times_s, other_times_s, duration_s, other_duration_s, min_frames=min_frames)


def align(
    strengths: NDArray[np.floating[Any]],
    times_s: NDArray[np.floating[Any]],
    other_times_s: NDArray[np.floating[Any]],
    duration_s: float | None = None,
    other_duration_s: float | None = None,
    *,
    min_frames: int = MIN_FRAMES,
) -> Alignment:
    """strengths: (n, m), 0 where two frames differ, up to 1 where they are the same. Times rise.

    Durations say where the last frame ends; None: a frame's distance after it.
    """
    strength: NDArray[np.float64] = np.asarray(strengths, np.float64)
    similar = strength > 0
    if not similar.any():
        return Alignment((), 0.0, 0.0, Order.UNTESTABLE, 0.0, 0.0)
    query, other = _Clock.of(times_s, duration_s), _Clock.of(other_times_s, other_duration_s)
    runs = list(_runs(strength, query, other, min(min_frames, *strength.shape)))
    runs.sort(key=lambda run: int(run.rows[0]))
    segments = tuple(_segment(run, query, other) for run in runs)
    resembling = int(similar.any(axis=1).sum())
    on_segments = sum(len(run.rows) for run in runs)
    return Alignment(
        segments,
        _union([(segment.start_s, segment.end_s) for segment in segments]),
        _union([(segment.other_start_s, segment.other_end_s) for segment in segments]),
        Order.DISAGREES if 2 * on_segments < resembling else _order(strength, query, other),
        resembling / len(similar),
        on_segments / resembling,
    )


def _order(strengths: NDArray[np.float64], query: _Clock, other: _Clock) -> Order:
    """Does the film fit better than the same film run backwards? Neither does where nothing happens."""
    if min(strengths.shape) == 1:
        return Order.UNTESTABLE
    _, forwards = _best_line(strengths, query, other)
    _, backwards = _best_line(strengths[:, ::-1], query, other.backwards())
    if backwards > forwards * (1 + _CLEARLY):
        return Order.DISAGREES
    return Order.AGREES if backwards < forwards * (1 - _CLEARLY) else Order.UNTESTABLE


@dataclass(frozen=True)
class _Clock:
    times_s: NDArray[np.float64]
    step_s: float  # usual distance of two frames
    end_s: float

    @classmethod
    def of(cls, times_s: NDArray[np.floating[Any]], duration_s: float | None) -> _Clock:
        times = np.asarray(times_s, np.float64)
        steps = np.diff(times)
        steps = steps[steps > 1e-6]
        last = float(times[-1])
        step_s = float(np.median(steps)) if len(steps) else max(0.0, (duration_s or 0.0) - last)
        return cls(times, step_s, max(last, last + step_s if duration_s is None else duration_s))

    def backwards(self) -> _Clock:
        return _Clock(self.times_s[-1] - self.times_s[::-1], self.step_s, self.end_s)

    def span(self, first: int, last: int) -> tuple[float, float]:
        return float(self.times_s[first]), min(self.end_s, float(self.times_s[last]) + self.step_s)


def _segment(run: _Line, query: _Clock, other: _Clock) -> MatchedSegment:
    return MatchedSegment(
        *query.span(int(run.rows[0]), int(run.rows[-1])), *other.span(int(run.columns[0]), int(run.columns[-1]))
    )


def _runs(strengths: NDArray[np.float64], query: _Clock, other: _Clock, min_frames: int) -> Iterator[_Line]:
    """Stretches of at least `min_frames`, best line first; a frame of the query is in one of them at most."""
    left, found, failed = strengths.copy(), 0, 0
    while found < _MAX_SEGMENTS and failed < _MAX_FAILED and left.any():
        line, _ = _best_line(left, query, other)
        left[line.rows, line.columns] = 0.0
        runs = [run for run in _unbroken(line, query, other) if len(run.rows) >= min_frames]
        for run in runs:
            left[run.rows] = 0.0
        yield from runs
        found, failed = found + len(runs), failed + (not runs)


def _best_line(strengths: NDArray[np.float64], query: _Clock, other: _Clock) -> tuple[_Line, float]:
    """And its votes."""
    rows, columns = np.nonzero(strengths)
    slack_s = max(1e-3, _SLACK * max(query.step_s, other.step_s))
    speeds = SPEEDS if len(query.times_s) >= _SPEED_SHOWS else SPEEDS[:1]
    best_votes, best = 0.0, np.zeros((0, 0))
    for speed in speeds:
        offsets = (other.times_s[columns] - speed * query.times_s[rows]) / slack_s
        votes, table = _vote(offsets, rows, columns, strengths)
        if votes > best_votes * _FASTER_BY:
            best_votes, best = votes, table
    return _forward(best), best_votes


def _vote(
    offsets: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp], strengths: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Votes of the best offset, and the (n, m) votes for it; offsets in slacks.

    A frame of the query votes once for an offset, by its best pair; a pair votes for the whole offsets on both sides.
    Of the best whole one the pairs' median is taken, and voted for again.
    """
    below = np.floor(offsets)
    both = np.concatenate([below, below + 1]).astype(np.intp)
    away = np.abs(np.concatenate([offsets, offsets]) - both)
    pair = np.concatenate([rows, rows])
    weight = np.concatenate([strengths[rows, columns]] * 2) * (1 - 0.5 * away)
    first = int(both.min())
    ballot = np.zeros((int(both.max()) - first + 1, len(strengths)))
    np.maximum.at(ballot, (both - first, pair), weight)
    totals = ballot.sum(axis=1)
    winners = np.flatnonzero(totals >= totals.max() - 1e-9)
    winner = int(winners[np.abs(winners + first).argmin()])  # of equal ones the nearest to no offset at all
    table = _votes_for(float(winner + first), offsets, rows, columns, strengths)
    voters = np.flatnonzero(table.any(axis=1))
    by_pair = np.full(strengths.shape, np.nan)
    by_pair[rows, columns] = offsets
    table = _votes_for(
        float(np.median(by_pair[voters, table[voters].argmax(axis=1)])), offsets, rows, columns, strengths
    )
    return float(table.max(axis=1).sum()), table


def _votes_for(
    offset: float,
    offsets: NDArray[np.float64],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    strengths: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(n, m): the nearer a pair lies to the line the more it counts; 0 farther away than the slack."""
    away = np.abs(offsets - offset)
    table = np.zeros_like(strengths)
    table[rows, columns] = np.where(away <= 1, strengths[rows, columns] * (1 - 0.5 * away), 0.0)
    return table


def _forward(votes: NDArray[np.float64]) -> _Line:
    """Each row's best column, and of these the longest sequence that never goes back (patience sorting)."""
    rows = np.flatnonzero(votes.any(axis=1)) if votes.size else np.zeros(0, np.intp)
    columns = votes[rows].argmax(axis=1) if len(rows) else np.zeros(0, np.intp)
    ends: list[int] = []  # smallest last column of a sequence of each length
    at: list[int] = []  # its position
    before = [-1] * len(rows)
    for position, column in enumerate(columns.tolist()):
        length = bisect_right(ends, column)
        before[position] = at[length - 1] if length else -1
        ends[length : length + 1] = [column]
        at[length : length + 1] = [position]
    kept: list[int] = []
    position = at[-1] if at else -1
    while position >= 0:
        kept.append(position)
        position = before[position]
    kept.reverse()
    return _Line(rows[kept], columns[kept])


def _unbroken(line: _Line, query: _Clock, other: _Clock) -> Iterator[_Line]:
    breaks = (np.diff(query.times_s[line.rows]) > _MAX_BREAK * query.step_s + 1e-6) | (
        np.diff(other.times_s[line.columns]) > _MAX_BREAK * max(other.step_s, query.step_s) + 1e-6
    )
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(line.rows)]
    for start, stop in pairwise(edges):
        yield _Line(line.rows[start:stop], line.columns[start:stop])


def _union(spans: list[tuple[float, float]]) -> float:
    """Seconds covered by any of them."""
    total, end = 0.0, float("-inf")
    for start_s, end_s in sorted(spans):
        total += max(0.0, end_s - max(start_s, end))
        end = max(end, end_s)
    return total


def _common_step(
    times_s: NDArray[np.float32], other_s: NDArray[np.float32], duration_s: float | None, other_duration_s: float | None
) -> float:
    """The finest distance in either, but no more than _MAX_POINTS over the longer."""
    steps = np.concatenate([np.diff(times_s), np.diff(other_s)]).astype(np.float64)
    steps = steps[steps > 1e-3]
    longest = max([0.0, duration_s or 0.0, other_duration_s or 0.0, *map(float, times_s), *map(float, other_s)])
    finest = float(steps.min()) if len(steps) else longest
    return max(finest, longest / _MAX_POINTS, 1e-3)


def _held(
    times_s: NDArray[np.float32], duration_s: float | None, step_s: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """(which signature, when) at every step from the first on: each lasts until the next."""
    if not len(times_s):
        return np.zeros(0, np.intp), np.zeros(0)
    end_s = max(float(times_s[-1]) + 1e-6, duration_s or 0.0)
    grid = np.arange(float(times_s[0]), end_s, step_s)
    return np.searchsorted(times_s, grid + 1e-3, side="right") - 1, grid


def _normalised(vectors: NDArray[Any]) -> NDArray[np.float32]:
    rows = np.asarray(vectors, np.float32)
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
