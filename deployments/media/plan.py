"""Which packets must be decoded to see a video once a second: pure arithmetic on times and key flags.

A key frame decodes alone. Where one lies near enough to a wanted time it is taken and the rest of its group is
skipped; otherwise the group is decoded from its key frame up to the wanted time and no further. So a video with a
key frame a second costs its key frames, an hour costs sixty key frames, and a long group costs what it must.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEY_TOLERANCE = 0.25  # of the interval: how far a key frame may lie from the time it stands for


@dataclass(frozen=True)
class Run:
    """Packets `first` up to and without `stop` go through the decoder, to see the frames nearest to `targets_s`."""

    first: int
    stop: int
    targets_s: tuple[float, ...]


def wanted_times(times_s: NDArray[np.float64], end_s: float, interval_s: float, max_frames: int) -> NDArray[np.float64]:
    """When a video whose packets play at `times_s` is looked at.

    Evenly in time; but where that would show the same few frames again and again (a slide show, a clock with jumps),
    evenly in number of frames.
    """
    if not len(times_s):
        return np.zeros(0)
    wanted = spread(float(times_s.min()), end_s, interval_s, max_frames)
    in_order = np.sort(times_s)
    seen = len(np.unique(np.searchsorted(in_order, wanted + 1e-6, side="right")))
    count = min(len(wanted), len(in_order))
    if 2 * seen >= count:
        return wanted
    return np.unique(in_order[np.linspace(0, len(in_order) - 1, count).round().astype(int)])


def spread(start_s: float, end_s: float, interval_s: float, max_frames: int) -> NDArray[np.float64]:
    """One time per interval from the start; more than `max_frames` of them become as many in an even spread."""
    count = max(1, int(np.ceil((end_s - start_s) / interval_s - 1e-3)))
    if count <= max_frames:
        return start_s + interval_s * np.arange(count, dtype=np.float64)
    step = (end_s - start_s) / max_frames
    return start_s + step * (np.arange(max_frames, dtype=np.float64) + 0.5)


def plan_runs(times_s: NDArray[np.float64], keys: NDArray[np.bool_], wanted_s: NDArray[np.float64]) -> list[Run]:
    """Runs in file order, none overlapping; `times_s` and `keys` are the packets' in file order."""
    if not len(times_s):
        return []
    starts = np.flatnonzero(keys)
    if not len(starts) or starts[0] != 0:
        starts = np.concatenate(([0], starts))  # a stream that begins without a key frame
    key_times = times_s[starts]
    order = np.argsort(key_times, kind="stable")
    stops = np.append(starts[1:], len(times_s))
    tolerance_s = KEY_TOLERANCE * float(np.diff(wanted_s).min()) if len(wanted_s) > 1 else 1e-3
    alone: dict[int, list[float]] = {}
    groups: dict[int, list[float]] = {}
    for target in wanted_s:
        after = int(np.searchsorted(key_times[order], target + 1e-6, side="right"))
        near = [int(order[i]) for i in (after - 1, after) if 0 <= i < len(order)]
        best = min(near, key=lambda group: abs(key_times[group] - target))
        if abs(key_times[best] - target) <= tolerance_s:
            alone.setdefault(best, []).append(float(target))
        else:
            groups.setdefault(near[0], []).append(float(target))
    return sorted(_runs(starts, stops, alone, groups), key=lambda run: run.first)


def _runs(
    starts: NDArray[np.int64], stops: NDArray[np.int64], alone: dict[int, list[float]], groups: dict[int, list[float]]
) -> list[Run]:
    runs = []
    for group in alone.keys() | groups.keys():
        whole = group in groups
        targets = sorted(alone.get(group, []) + groups.get(group, []))
        stop = int(stops[group]) if whole else int(starts[group]) + 1
        runs.append(Run(int(starts[group]), stop, tuple(targets)))
    return runs
