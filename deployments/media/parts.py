"""What the image and the container decoders hand to `decode`: the parts of a DecodedMedia they know about."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deployments.media.frame import Frame, Signatures, distinct_signatures
from deployments.media.settings import MediaSettings
from deployments.runtime.values import MISSING, ContentType, ModalityStatus, SoundBlock


@dataclass(frozen=True)
class Visual:
    status: ModalityStatus = MISSING
    frames: NDArray[np.uint8] | None = None  # (n, crop, crop, 3)
    times_s: NDArray[np.float32] | None = None  # (n,)
    signatures: Signatures | None = None

    @classmethod
    def of(
        cls, status: ModalityStatus, frames: Sequence[Frame], times_s: Sequence[float], settings: MediaSettings
    ) -> Visual:
        """Frames in order of time, at least one."""
        at_s = np.asarray(times_s, np.float32)
        pixels = np.stack([frame.pixels for frame in frames])
        return cls(status, pixels, at_s, distinct_signatures(frames, at_s, settings))


@dataclass(frozen=True)
class Sound:
    status: ModalityStatus = MISSING
    samples: NDArray[np.float32] | None = None
    blocks: tuple[SoundBlock, ...] = ()


@dataclass(frozen=True)
class Parts:
    content_type: ContentType
    container: str
    duration_s: float | None = None
    visual: Visual = field(default_factory=Visual)
    sound: Sound = field(default_factory=Sound)


class Budget:
    """Wall and processor time that a decode may use before it stops by itself and keeps what it has."""

    def __init__(self, settings: MediaSettings) -> None:
        self._wall_end = time.monotonic() + settings.decode_wall_s * settings.decode_budget
        self._cpu_end = time.process_time() + settings.decode_cpu_s * settings.decode_budget

    @property
    def spent(self) -> bool:
        return time.monotonic() > self._wall_end or time.process_time() > self._cpu_end
