"""Stretches of a post in time: every run of a few consecutive frames or sound examples, with its context.

A window is anchored in one modality. Of the other timed modality it takes what overlaps it (or lies nearest), and of
the text all, because text has no seconds. All windows of one post are projected through the first layer at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.fusion.features import Floats, unit
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import Modality

FRAME_STEP_S = 1.0  # the media node takes frames one second apart
SOUND_STEP_S = 0.96  # one VGGish example

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Track:
    """The vectors of one modality and the seconds each stands for: [starts, ends)."""

    modality: Modality
    sums: NDArray[np.float64]  # (n + 1, dimension): sums[b] - sums[a] is the sum of vectors a..b-1
    starts: NDArray[np.float64]  # (n,) seconds
    ends: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, modality: Modality, vectors: Floats, times_s: NDArray[Any] | None) -> Track:
        """vectors (n, dimension), times_s (n,) rising or None. Raises InvalidInput."""
        step = FRAME_STEP_S if modality is Modality.VISUAL else SOUND_STEP_S
        n = len(vectors)
        starts = np.asarray(np.arange(n) * step if times_s is None else times_s, dtype=np.float64)
        if starts.shape != (n,) or not np.isfinite(starts).all() or np.any(np.diff(starts) < 0):
            raise InvalidInput(f"The {modality} embedding's times must be {n} rising numbers of seconds.")
        if modality is Modality.VISUAL:  # a frame stands for the time until the next one
            last = float(np.median(np.diff(starts))) if n > 1 else step
            ends = np.append(starts[1:], starts[-1] + last).astype(np.float64)
        else:
            ends = starts + step
        sums = np.concatenate([np.zeros((1, vectors.shape[1])), np.cumsum(vectors, axis=0, dtype=np.float64)])
        return cls(modality, sums, starts, ends)

    def means(self, first: Ints, stop: Ints) -> Floats:
        """Unit mean vector of each run first..stop-1: (runs, dimension)."""
        return unit((self.sums[stop] - self.sums[first]) / (stop - first)[:, None])

    def overlapping(self, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> tuple[Ints, Ints]:
        """The run of vectors that overlaps each interval; the nearest one where none does."""
        first = np.searchsorted(self.ends, start_s, side="right")
        stop = np.searchsorted(self.starts, end_s, side="left")
        first = np.minimum(first, len(self) - 1)
        return first, np.maximum(stop, first + 1)


@dataclass(frozen=True)
class Windows:
    """All runs of `length` consecutive vectors of a track."""

    track: Track
    length: int

    @property
    def first(self) -> Ints:
        return np.arange(len(self.track) - self.length + 1)

    @property
    def start_s(self) -> NDArray[np.float64]:
        return self.track.starts[self.first]

    @property
    def end_s(self) -> NDArray[np.float64]:
        return self.track.ends[self.first + self.length - 1]

    def vectors(self, other: Track) -> tuple[Floats, Ints]:
        """Distinct unit vectors of `other` in these windows, and which of them each window has: (u, d), (n,)."""
        if other is self.track:
            return other.means(self.first, self.first + self.length), np.arange(len(self.first))
        runs = np.stack(other.overlapping(self.start_s, self.end_s), axis=1)
        distinct, which = np.unique(runs, axis=0, return_inverse=True)
        return other.means(distinct[:, 0], distinct[:, 1]), which.reshape(-1)


def windows_of(track: Track, lengths: tuple[int, ...]) -> list[Windows]:
    """One group per length that is shorter than the track; a track of one vector is the whole post already."""
    return [Windows(track, length) for length in lengths if length < len(track)]
