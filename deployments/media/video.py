"""The moving picture: chosen packets in, upright frames of the encoder's geometry and their signatures out.

Within a run of packets, frames that no other frame refers to are dropped (`NONREF`) except close to a wanted time,
so what is chosen is exact and what is only passed through is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.media.container import ERRORS, limit_decoder
from deployments.media.frame import Frame, look
from deployments.media.index import PacketList
from deployments.media.plan import Run
from deployments.media.settings import MediaSettings
from deployments.runtime.values import FrameSpec

_EXACT_S = 0.15  # around a wanted time every frame within one step of it is decoded, at most this far


class FramePicker:
    """Takes the video packets of a file one by one, in file order; `frames` and `times_s` grow."""

    def __init__(
        self,
        stream: av.VideoStream,
        packets: PacketList,
        runs: list[Run],
        start_s: float,
        settings: MediaSettings,
        spec: FrameSpec,
    ) -> None:
        limit_decoder(stream, settings)
        self._codec = stream.codec_context
        self._time_base = float(stream.time_base or 0)
        self._pixel_aspect = _pixel_aspect(stream)
        self._packets = packets
        self._at_s = packets.times_s
        self._exact_s = _step_s(self._at_s)
        self._runs: Iterator[Run] = iter(runs)
        self._run: Run | None = next(self._runs, None)
        self._start_s, self._spec, self._settings = start_s, spec, settings
        self._targets: list[float] = list(self._run.targets_s) if self._run else []
        self._previous: av.VideoFrame | None = None
        self._chosen: set[float] = set()
        self._ordinal = -1
        self.frames: list[Frame] = []
        self.times_s: list[float] = []
        self.damaged = 0

    @property
    def done(self) -> bool:
        return self._run is None

    def feed(self, packet: av.Packet[Any]) -> None:
        self._ordinal += 1
        run = self._run
        if run is None or self._ordinal < run.first:
            return
        at_s = float(self._at_s[self._ordinal]) if self._ordinal < len(self._at_s) else 0.0
        near = any(abs(at_s - target) <= self._exact_s for target in self._targets)
        self._codec.skip_frame = "DEFAULT" if near or self._ordinal == run.first else "NONREF"
        self._packets.onto_its_clock(packet, self._ordinal)
        self._decode(packet)
        if not self._targets or self._ordinal + 1 >= run.stop:
            self.finish_run()

    def finish_run(self) -> None:
        """Drains the decoder; what is nearest to the targets still open is taken."""
        if self._run is None:
            return
        if self._targets:
            self._decode(None)
            if self._previous is not None and self._targets:
                self._take(self._previous)
        self._codec.flush_buffers()
        self._previous = None
        self._run = next(self._runs, None)
        self._targets = list(self._run.targets_s) if self._run else []

    def _decode(self, packet: av.Packet[Any] | None) -> None:
        try:
            frames = self._codec.decode(packet)
        except ERRORS:
            self.damaged += 1
            return
        for frame in frames:
            if frame.is_corrupt:
                self.damaged += 1
            self._offer(frame)

    def _offer(self, frame: av.VideoFrame) -> None:
        at_s = self._time_s(frame)
        while self._targets and at_s >= self._targets[0] - 1e-6:
            target = self._targets.pop(0)
            before = self._previous
            earlier_is_nearer = before is not None and target - self._time_s(before) < at_s - target
            self._take(before if before is not None and earlier_is_nearer else frame)
        self._previous = frame

    def _take(self, frame: av.VideoFrame) -> None:
        at_s = self._time_s(frame)
        if at_s in self._chosen:
            return
        try:
            picture, pixel_aspect = upright(frame, self._pixel_aspect)
        except ERRORS:
            self.damaged += 1
            return
        self._chosen.add(at_s)
        self.frames.append(look(picture, self._spec, self._settings, pixel_aspect))
        self.times_s.append(max(0.0, at_s - self._start_s))

    def _time_s(self, frame: av.VideoFrame) -> float:
        if frame.pts is not None:
            return frame.pts * self._time_base  # not frame.time, which loses its time base while draining
        return float(self._at_s[self._ordinal]) if self._ordinal < len(self._at_s) else 0.0


def _step_s(times_s: NDArray[np.float64]) -> float:
    """The usual distance of two frames."""
    steps = np.diff(np.sort(times_s))
    steps = steps[steps > 1e-6]
    return min(_EXACT_S, 1.01 * float(np.median(steps))) if len(steps) else _EXACT_S


def _pixel_aspect(stream: av.VideoStream) -> float:
    """Width of a pixel as it is shown, in heights; 1 where the file says nothing or nothing sensible."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return ratio if 1 / 8 <= ratio <= 8 else 1.0


def upright(frame: av.VideoFrame, pixel_aspect: float = 1.0) -> tuple[Image.Image, float]:
    """RGB, turned as the file's display matrix says (phones film sideways), and the aspect its pixels then have."""
    picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turn = frame.rotation % 360  # degrees counter-clockwise
    if turn in (90, 180, 270):
        method = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
        return picture.transpose(method[turn]), pixel_aspect if turn == 180 else 1 / pixel_aspect
    return picture, pixel_aspect
