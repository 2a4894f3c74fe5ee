"""A pass over a file's packets without decoding any: when each one plays and which are key frames.

Cheap (no decoder runs), and true for a file that breaks off: only packets that are really there are listed.
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

_HEADER_DURATION = ("mov", "matroska", "avi", "flv", "wav")  # others only estimate it from the bit rate


@dataclass
class PacketList:
    """Packets of one stream in file order."""

    stream_index: int
    _times: array[float] = field(default_factory=lambda: array("d"))
    _durations: array[float] = field(default_factory=lambda: array("d"))
    _keys: bytearray = field(default_factory=bytearray)

    def add(self, packet: av.Packet[Any]) -> None:
        time_base = float(packet.time_base) if packet.time_base else 0.0
        stamp = packet.pts if packet.pts is not None else packet.dts
        last = self._times[-1] + self._durations[-1] if self._times else 0.0
        self._times.append(stamp * time_base if stamp is not None else last)
        self._durations.append((packet.duration or 0) * time_base)
        self._keys.append(packet.is_keyframe)

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


def _start_s(lists: list[PacketList]) -> float:
    """Sound may start a little below zero (encoder priming): that counts as zero."""
    starts = [float(packets.times_s.min()) for packets in lists if len(packets)]
    first = min(starts, default=0.0)
    return 0.0 if -0.25 < first < 0.0 else first


def _declared_s(container: InputContainer) -> float | None:
    if container.duration is None or container.format.name.split(",")[0] not in _HEADER_DURATION:
        return None
    return container.duration / 1_000_000  # AV_TIME_BASE
