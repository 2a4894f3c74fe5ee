"""Sound of a livestream cut into the windows that are judged: (samples,) -> windows of `window_s`, `overlap_s` shared.

The windows cover every sample. The last one may be shorter, down to `SHORTEST_S`; where less is left it begins that
much earlier, within its predecessor: a piece must not be refused because its end alone is too short to be judged.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import SAMPLE_RATE_HZ, SoundWindow

SHORTEST_S = 0.5


@dataclass(frozen=True)
class SoundCut:
    window_s: float
    overlap_s: float = 0.0  # how much of a window its successor hears again


def cut_windows(samples: NDArray[np.float32], window_s: float, overlap_s: float) -> list[SoundWindow]:
    """`samples` (n,) mono 16 kHz. Raises InvalidInput where the windows would never move on."""
    window, step = round(window_s * SAMPLE_RATE_HZ), round((window_s - overlap_s) * SAMPLE_RATE_HZ)
    if window < 1 or step < 1:
        raise InvalidInput("overlap_s must be shorter than the window.", param="overlap_s")
    windows: list[SoundWindow] = []
    shortest = min(window, round(SHORTEST_S * SAMPLE_RATE_HZ))
    for first in range(0, len(samples), step):
        if windows:
            first = min(first, len(samples) - shortest)
        windows.append(sound_window(samples[first : first + window], first / SAMPLE_RATE_HZ))
        if first + window >= len(samples):
            break  # what follows lies within this one
    return windows


def sound_window(samples: NDArray[np.float32], start_s: float = 0.0) -> SoundWindow:
    own = np.ascontiguousarray(samples, np.float32)
    return SoundWindow(start_s, len(own), hashlib.sha256(own.data).hexdigest(), own)
