"""A pass over a file's packets without decoding any: when each one plays and which are key frames.

Cheap (no decoder runs), and true for a file that breaks off: only packets that are really there are listed. Where a
clock starts again in mid-file (clips joined byte for byte) the list's runs on: one part plays after the other.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from deployments.media.container import ERRORS
from deployments.media.parts import Budget

_CLOCK_SLACK_S = 0.1  # a decoding time that falls back by more means that the clock started again
_HEADER_DURATION = ("mov", "matroska", "avi", "flv", "wav")  # others only estimate it from the bit rate


@dataclass
class PacketList:
    """Packets of one stream in file order, on a clock that never starts again."""

    stream_index: int
    _times: array[float] = field(default_factory=lambda: array("d"))
    _durations: array[float] = field(default_factory=lambda: array("d"))
    _keys: bytearray = field(default_factory=bytearray)
    _end_s: float = float("-inf")
    _last_dts_s: float = float("-inf")  # as the file says it
    _shift_s: float = 0.0  # from the file's clock to the list's

    def add(self, packet: av.Packet[Any]) -> None:
        time_base, stamp = _time_base(packet), _stamp(packet)
        last = self._times[-1] + self._durations[-1] if self._times else 0.0
        if packet.dts is not None and stamp is not None:
            dts_s = packet.dts * time_base
            if dts_s < self._last_dts_s - _CLOCK_SLACK_S:
                self._shift_s = self._end_s - stamp * time_base
            self._last_dts_s = dts_s
        at_s = stamp * time_base + self._shift_s if stamp is not None else last
        duration_s = (packet.duration or 0) * time_base
        self._times.append(at_s)
        self._durations.append(duration_s)
        self._keys.append(packet.is_keyframe)
        self._end_s = max(self._end_s, at_s + duration_s)

    def onto_its_clock(self, packet: av.Packet[Any], ordinal: int) -> None:
        """Moves the stamps of the packet with this number, so that its frames come out of the decoder on this clock."""
        time_base, stamp = _time_base(packet), _stamp(packet)
        if not time_base or stamp is None or ordinal >= len(self._times):
            return
        shift = round(self._times[ordinal] / time_base - stamp)
        if shift:
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift

    def __len__(self) -> int:
        return len(self._times)

    @property
    def times_s(self) -> NDArray[np.float64]:
        return np.frombuffer(self._times, np.float64) if self._times else np.zeros(0)

    @property
    def keys(self) -> NDArray[np.bool_]:
        return np.frombuffer(self._keys, np.bool_) if self._keys else np.zeros(0, np.bool_)

    @property
    def end_s(self) -> float:
        """When the last packet stops playing."""
        if not self._times:
            return 0.0
        return float((self.times_s + np.frombuffer(self._durations, np.float64)).max())


@dataclass(frozen=True)
class Index:
    video: PacketList | None
    sound: PacketList | None
    start_s: float  # what the file calls the time of its first packet
    declared_s: float | None  # duration its header promises, where a header does
    broken: bool  # reading stopped at an error

    @property
    def duration_s(self) -> float:
        ends = [packets.end_s for packets in (self.video, self.sound) if packets is not None and len(packets)]
        return max(0.0, max(ends) - self.start_s) if ends else 0.0

    @property
    def broken_off(self) -> str | None:
        """Why the file is not whole, in words for a moderator."""
        duration_s = self.duration_s
        if self.declared_s is not None and self.declared_s > duration_s * 1.02 + 1.0:
            return f"The file breaks off: {duration_s:.1f} of {self.declared_s:.1f} s are there."
        return f"The file is damaged after {duration_s:.1f} s." if self.broken else None


def read_index(
    container: InputContainer, video: av.VideoStream | None, sound: av.AudioStream | None, budget: Budget
) -> Index:
    lists = {stream.index: PacketList(stream.index) for stream in (video, sound) if stream is not None}
    broken = False
    try:
        for packet in container.demux(*(stream for stream in (video, sound) if stream is not None)):
            if packet.size:
                lists[packet.stream.index].add(packet)
            if budget.spent:
                break
    except ERRORS:
        broken = True
    return Index(
        video=lists[video.index] if video is not None else None,
        sound=lists[sound.index] if sound is not None else None,
        start_s=_start_s(list(lists.values())),
        declared_s=_declared_s(container),
        broken=broken,
    )


def _time_base(packet: av.Packet[Any]) -> float:
    return float(packet.time_base) if packet.time_base else 0.0


def _stamp(packet: av.Packet[Any]) -> int | None:
    return packet.pts if packet.pts is not None else packet.dts


def _start_s(lists: list[PacketList]) -> float:
    """Sound may start a little below zero (encoder priming): that counts as zero."""
    starts = [float(packets.times_s.min()) for packets in lists if len(packets)]
    first = min(starts, default=0.0)
    return 0.0 if -0.25 < first < 0.0 else first


def _declared_s(container: InputContainer) -> float | None:
    if container.duration is None or container.format.name.split(",")[0] not in _HEADER_DURATION:
        return None
    return container.duration / 1_000_000  # AV_TIME_BASE
