"""Whether memory stays flat: the event path under load for some minutes, a clip in four shorter than the others."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from benchmarks.livestream.clips import Sender, sounds, wav
from benchmarks.livestream.rounds import Rounds
from benchmarks.livestream.worker import Worker
from benchmarks.report import Row, median

_ROUND = 16  # clips
_LENGTHS_S = (4.1, 7.3, 11.9, 16.2)
_SETTLED = 0.25  # of the time: what is taken once is taken by then


async def rows(rounds: Rounds, worker: Worker, way: tuple[str, str], minutes: float) -> list[Row]:
    files = [wav(one) for one in sounds(3)]
    short = [wav(sounds(1, seconds)[0]) for seconds in _LENGTHS_S]
    sender = Sender([file for one in short for file in (*files, one)], prefix="soak")
    at_s, mib, clips = [0.0], [worker.memory_mib()], 0
    started = time.monotonic()
    while at_s[-1] < 60 * minutes:
        clips += (await rounds.path(worker, way, _ROUND, sender)).clips
        at_s.append(time.monotonic() - started)
        mib.append(worker.memory_mib())
    settled = [place for place, second in enumerate(at_s) if second >= _SETTLED * at_s[-1]]
    grown = slope([at_s[place] / 60 for place in settled], [mib[place] for place in settled])
    return [
        Row("soak_memory_slope", grown, "MiB/min"),
        Row("soak_memory", mib[-1], "MiB", mib[settled[0]], mib[-1] / mib[settled[0]]),
        Row("soak_memory_peak", max(mib), "MiB"),
        Row("soak_clips", float(clips), "clips"),
        Row("soak_minutes", at_s[-1] / 60, "min"),
    ]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The median of the slopes of all pairs (Theil-Sen): OpenVINO takes and returns buffers by the hundred MiB, which
    no growth is, and a least-squares line would follow."""
    pairs = itertools.combinations(zip(x, y, strict=True), 2)
    return median([(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs])
