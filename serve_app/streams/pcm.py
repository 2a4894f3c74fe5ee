"""Sound that needs no decoder: PCM samples, bare or in a WAV file, as float32 mono 16 kHz; and the other way round.

A clip that is already what the model hears costs one numpy call here instead of a hop to the media node. Whatever
else a WAV file holds (other rates, more channels, other codecs) is None here and the media node's business.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import SAMPLE_RATE_HZ

PcmFormat = Literal["s16le", "s16be", "f32le"]
Samples = NDArray[np.float32]
_DTYPES: Final = {"s16le": "<i2", "s16be": ">i2", "f32le": "<f4"}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # wFormatTag of a WAV file's `fmt ` chunk
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 192_000


@dataclass(frozen=True)
class Pcm:
    """How bare samples are to be read."""

    format: PcmFormat
    rate_hz: int
    channels: int = 1

    def __post_init__(self) -> None:
        if not MIN_RATE_HZ <= self.rate_hz <= MAX_RATE_HZ:
            raise InvalidInput(f"rate must be between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz.", param="rate")
        if not 1 <= self.channels <= 8:
            raise InvalidInput("channels must be between 1 and 8.", param="channels")

    @property
    def frame_bytes(self) -> int:
        return int(np.dtype(_DTYPES[self.format]).itemsize) * self.channels


def read_pcm(data: bytes, pcm: Pcm) -> Samples | None:
    """(n,) float32 where `data` is 16 kHz mono; None where it must be resampled or mixed: `as_wav` and the media node.

    Raises InvalidInput for no sample at all, a broken last one, or samples that are no finite numbers.
    """
    if not data:
        raise InvalidInput("The clip has no sound: it is 0 s long.")
    if len(data) % pcm.frame_bytes:
        raise InvalidInput(f"{len(data)} bytes are no whole number of {pcm.format} samples of {pcm.channels} channels.")
    samples = np.frombuffer(data, _DTYPES[pcm.format])
    if pcm.format == "f32le" and not np.isfinite(samples).all():
        raise InvalidInput("The clip holds samples that are not finite numbers.")
    if pcm.rate_hz != SAMPLE_RATE_HZ or pcm.channels != 1:
        return None
    scale = np.float32(1.0 if pcm.format == "f32le" else 32768.0)
    scaled: Samples = np.clip(samples.astype(np.float32) / scale, np.float32(-1.0), np.float32(1.0))
    return scaled


def read_wav(data: bytes) -> Samples | None:
    """The samples of a WAV file of 16 kHz mono PCM; None for anything else, also for a file that is broken.

    Raises InvalidInput for 0 s, and for float samples that are no finite numbers whatever their rate: a resampler
    would hide them.
    """
    found = _wav_parts(data)
    if found is None:
        return None
    fmt, body = found
    if _tag_and_bits(fmt) == (_FLOAT, 64):
        _check_doubles(body)
    pcm = _wav_format(fmt)
    if pcm is None:
        return None
    return read_pcm(body[: len(body) // pcm.frame_bytes * pcm.frame_bytes], pcm)


def as_wav(data: bytes, pcm: Pcm) -> bytes:
    """Bare samples in a container that the media node reads."""
    if pcm.format == "s16be":
        data = np.frombuffer(data, ">i2").astype("<i2").tobytes()
    tag, bits = (_FLOAT, 32) if pcm.format == "f32le" else (_PCM, 16)
    rate = pcm.rate_hz
    fmt = struct.pack("<HHIIHH", tag, pcm.channels, rate, rate * pcm.frame_bytes, pcm.frame_bytes, bits)
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def _wav_parts(data: bytes) -> tuple[bytes, bytes] | None:
    """The `fmt ` chunk and the body of the first `data` chunk (RIFF, "Multimedia Programming Interface", 1991)."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    at, fmt = 12, b""
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = at + 8
        if name == b"fmt ":
            fmt = data[body : body + size]
        if name == b"data":
            return (fmt, data[body : body + size]) if len(fmt) >= 16 else None  # a size too large is that of a pipe
        at = body + size + size % 2
    return None


def _wav_format(fmt: bytes) -> Pcm | None:
    _, channels, rate = struct.unpack_from("<HHI", fmt)
    kind: PcmFormat | None = {(_PCM, 16): "s16le", (_FLOAT, 32): "f32le"}.get(_tag_and_bits(fmt))  # type: ignore[assignment]
    if kind is None or not MIN_RATE_HZ <= rate <= MAX_RATE_HZ or not 1 <= channels <= 8:
        return None
    return Pcm(kind, rate, channels)


def _tag_and_bits(fmt: bytes) -> tuple[int, int]:
    tag, _, _, _, _, bits = struct.unpack_from("<HHIIHH", fmt)
    if tag == _EXTENSIBLE and len(fmt) >= 26:
        tag = int.from_bytes(fmt[24:26], "little")
    return tag, bits


def _check_doubles(body: bytes) -> None:
    """Finite as the float32 that they become, too. The media node would make silence of the others."""
    with np.errstate(over="ignore"):
        samples = np.frombuffer(body, "<f8", len(body) // 8).astype(np.float32)
    if not np.isfinite(samples).all():
        raise InvalidInput("The clip holds samples that are not finite numbers.")
