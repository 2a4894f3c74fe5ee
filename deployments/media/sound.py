"""The sound: chosen packets in, mono float32 at 16 kHz out, whole or in evenly spread blocks.

Channels are averaged here and not by the resampler, whose mono level depends on the sample format of the source.
Sound whose two channels cancel each other, silent once averaged and loud in any player, is heard through the louder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from deployments.media.container import ERRORS, limit_decoder
from deployments.media.index import PacketList
from deployments.media.settings import BLOCK_S, MediaSettings
from deployments.runtime.values import SAMPLE_RATE_HZ, SoundBlock

_EXAMPLE_S = 0.96
_PREROLL_S = 0.2  # decoded and thrown away before a block: codecs need it to settle
_CANCELLED = 0.05  # the average's level, as a share of the louder channel's, below which channels cancel each other


@dataclass(frozen=True)
class Stretch:
    start_s: float
    stop_s: float


@dataclass(frozen=True)
class SoundPlan:
    stretches: tuple[Stretch, ...]
    whole: bool  # one stretch without an end; otherwise blocks of 9.6 s


def plan_sound(start_s: float, end_s: float, max_sound_s: float) -> SoundPlan:
    """One stretch for sound that is heard whole; else as many 9.6 s blocks as fit into `max_sound_s`."""
    if end_s - start_s <= max_sound_s:
        return SoundPlan((Stretch(start_s, float("inf")),), whole=True)
    count = int(max_sound_s / BLOCK_S + 1e-6)
    starts = np.linspace(start_s, end_s - BLOCK_S, count)
    return SoundPlan(tuple(Stretch(float(start), float(start) + BLOCK_S) for start in starts), whole=False)


class SoundPicker:
    """Takes the sound packets of a file one by one, in file order."""

    def __init__(self, stream: av.AudioStream, packets: PacketList, plan: SoundPlan, settings: MediaSettings) -> None:
        limit_decoder(stream, settings)
        self._codec = stream.codec_context
        self._time_base = float(stream.time_base or 0)
        self._packets = packets
        self._times = packets.times_s
        self._stretches = plan.stretches
        self.whole = plan.whole
        self._left = int(settings.max_sound_s * SAMPLE_RATE_HZ)
        self._ordinal = -1
        self._at = 0
        self._resampler: av.AudioResampler | None = None
        self._source: tuple[str, str, int] | None = None  # what the resampler was made for
        self._layout = ""  # settled by the first frame of the file
        self._chunks: list[NDArray[np.float32]] = []  # (channels, samples)
        self._first_s: float | None = None
        self.parts: list[tuple[float, NDArray[np.float32]]] = []  # (start, samples)
        self.damaged = 0
        self.cut = False  # there was more sound than its timestamps said, and than may be heard

    @property
    def done(self) -> bool:
        return self._at >= len(self._stretches)

    def feed(self, packet: av.Packet[Any]) -> None:
        self._ordinal += 1
        if self.done:
            return
        at_s = float(self._times[self._ordinal]) if self._ordinal < len(self._times) else 0.0
        stretch = self._stretches[self._at]
        if at_s >= stretch.stop_s or self.cut:
            self.finish_stretch()
            if self.done:
                return
            stretch = self._stretches[self._at]
        if at_s >= stretch.start_s - _PREROLL_S or self.whole:
            self._packets.onto_its_clock(packet, self._ordinal)
            self._decode(packet)

    def finish_stretch(self) -> None:
        if self.done:
            return
        self._decode(None)
        self._resample(None)
        self._codec.flush_buffers()
        self._resampler = None
        if self._chunks:
            channels = np.concatenate(self._chunks, axis=1)
            self._chunks = []  # an hour in stereo is half a gigabyte
            self._keep(self._stretches[self._at], to_mono(channels))
        self._chunks, self._first_s = [], None
        self._at += 1

    def _keep(self, stretch: Stretch, samples: NDArray[np.float32]) -> None:
        start_s = self._first_s if self._first_s is not None else stretch.start_s
        if not self.whole:
            skip = max(0, round((stretch.start_s - start_s) * SAMPLE_RATE_HZ))
            start_s += skip / SAMPLE_RATE_HZ
            samples = samples[skip : skip + round(BLOCK_S * SAMPLE_RATE_HZ)]
            example = round(_EXAMPLE_S * SAMPLE_RATE_HZ)
            samples = samples[: len(samples) // example * example]
        if len(samples):
            self.parts.append((start_s, samples))

    def _decode(self, packet: av.Packet[Any] | None) -> None:
        try:
            frames = self._codec.decode(packet)
        except ERRORS:
            self.damaged += 1
            return
        for frame in frames:
            if self._first_s is None:
                self._first_s = frame.pts * self._time_base if frame.pts is not None else 0.0
            self._resample(frame)

    def _resample(self, frame: av.AudioFrame | None) -> None:
        try:
            if frame is not None:
                self._prepare(frame)
            if self._resampler is not None:
                self._collect(self._resampler.resample(frame))
        except ERRORS:
            self._resampler = None
            self.damaged += 1

    def _prepare(self, frame: av.AudioFrame) -> None:
        """A new resampler where there is none or where the sound changes its format in mid-stream."""
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is not None and source == self._source:
            return
        if self._resampler is not None:
            self._collect(self._resampler.resample(None))
        self._layout = self._layout or ("mono" if frame.layout.nb_channels == 1 else "stereo")
        self._source = source
        self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=SAMPLE_RATE_HZ)

    def _collect(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            channels = np.asarray(frame.to_ndarray(), np.float32)
            if self.whole:
                self.cut = self.cut or channels.shape[1] > self._left
                channels = channels[:, : self._left]
                self._left -= channels.shape[1]
            self._chunks.append(channels)

    def result(self, start_s: float) -> tuple[NDArray[np.float32] | None, tuple[SoundBlock, ...]]:
        """All blocks laid end to end; times counted from `start_s`."""
        if not self.parts:
            return None, ()
        blocks, first = [], 0
        for at_s, samples in self.parts:
            blocks.append(SoundBlock(max(0.0, at_s - start_s), first, len(samples)))
            first += len(samples)
        return np.concatenate([samples for _, samples in self.parts]), tuple(blocks)


def to_mono(channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """(channels, samples) -> (samples,) in -1..1, finite. `channels` is changed in place: it may be large."""
    finite = np.isfinite(channels)
    if not finite.all():
        channels[~finite] = 0.0
    del finite
    np.clip(channels, -1.0, 1.0, out=channels)
    mono: NDArray[np.float32] = channels.mean(axis=0, dtype=np.float32)
    if len(channels) > 1 and mono.size:
        levels = [_level(channel) for channel in channels]
        if _level(mono) < _CANCELLED * max(levels):
            mono = channels[int(np.argmax(levels))].copy()
    return mono


def _level(samples: NDArray[np.float32]) -> float:
    """RMS, added up in fp64 without a copy in fp64."""
    power = np.einsum("n,n->", samples, samples, dtype=np.float64, casting="same_kind")
    return float(np.sqrt(power / len(samples)))
