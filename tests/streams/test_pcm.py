"""Bare samples and WAV files, read without a decoder."""

from __future__ import annotations

import io
import struct
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.runtime.errors import InvalidInput
from serve_app.streams.pcm import Pcm, as_wav, read_pcm, read_wav

RAMP = np.linspace(-0.9, 0.9, 1600, dtype=np.float32)


def s16(samples: np.ndarray, order: str = "<") -> bytes:
    return (samples * 32767).round().astype(f"{order}i2").tobytes()


def wav_file(rate: int = 16_000, channels: int = 1, width: int = 2, frames: int = 1600) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(bytes(frames * channels * width))
    return out.getvalue()


@pytest.mark.parametrize(("kind", "order"), [("s16le", "<"), ("s16be", ">")])
def test_sixteen_bit_samples_of_either_byte_order(kind: str, order: str) -> None:
    samples = read_pcm(s16(RAMP, order), Pcm(kind, 16_000))  # type: ignore[arg-type]
    assert samples is not None
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, RAMP, atol=1e-4)


def test_float_samples_are_clipped_to_full_scale() -> None:
    samples = read_pcm(np.array([0.5, 2.0, -3.0], "<f4").tobytes(), Pcm("f32le", 16_000))
    assert samples is not None
    assert samples.tolist() == [0.5, 1.0, -1.0]


def test_other_rates_and_channels_are_the_media_nodes_business() -> None:
    assert read_pcm(s16(RAMP), Pcm("s16le", 44_100)) is None
    assert read_pcm(s16(RAMP), Pcm("s16le", 16_000, channels=2)) is None
    assert read_wav(wav_file(rate=8_000)) is None
    assert read_wav(wav_file(channels=2)) is None
    assert read_wav(wav_file(width=1)) is None


@pytest.mark.parametrize("rate", [0, 1, 7_999, 192_001])
def test_a_wrong_rate_is_refused(rate: int) -> None:
    with pytest.raises(InvalidInput, match="rate must be between"):
        Pcm("s16le", rate)


def test_what_is_no_sound_is_refused_with_its_reason() -> None:
    with pytest.raises(InvalidInput, match="0 s"):
        read_pcm(b"", Pcm("s16le", 16_000))
    with pytest.raises(InvalidInput, match="whole number"):
        read_pcm(b"\0\0\0", Pcm("s16le", 16_000))
    with pytest.raises(InvalidInput, match="not finite"):
        read_pcm(np.array([0.1, np.nan], "<f4").tobytes(), Pcm("f32le", 16_000))
    with pytest.raises(InvalidInput, match="not finite"):
        read_wav(as_wav(np.array([np.inf] * 4, "<f4").tobytes(), Pcm("f32le", 44_100)))
    with pytest.raises(InvalidInput, match="0 s"):
        read_wav(wav_file(frames=0))


@pytest.mark.parametrize(
    ("value", "refused"), [(0.5, False), (float("nan"), True), (float("inf"), True), (1e300, True)]
)
def test_a_wav_file_of_doubles_must_hold_finite_numbers_too(value: float, refused: bool) -> None:
    """The decoder reads it, and would make silence of what is no number."""
    body = np.array([0.1, value, 0.2], "<f8").tobytes()
    fmt = struct.pack("<HHIIHH", 3, 1, 16_000, 128_000, 8, 64)
    chunks = b"fmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", len(body)) + body
    data = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
    if not refused:
        assert read_wav(data) is None
        return
    with pytest.raises(InvalidInput, match="not finite"):
        read_wav(data)


@pytest.mark.parametrize("kind", ["s16le", "s16be", "f32le"])
def test_samples_survive_the_way_into_a_wav_file_and_out_again(kind: str) -> None:
    body = {"s16le": s16(RAMP), "s16be": s16(RAMP, ">"), "f32le": RAMP.tobytes()}[kind]
    samples = read_wav(as_wav(body, Pcm(kind, 16_000)))  # type: ignore[arg-type]
    assert samples is not None
    np.testing.assert_allclose(samples, RAMP, atol=1e-4)


def test_the_standard_librarys_file_is_read() -> None:
    samples = read_wav(wav_file())
    assert samples is not None
    assert samples.shape == (1600,)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, 60), value=st.integers(0, 255))
def test_no_bytes_break_the_reader(data: bytes, at: int, value: int) -> None:
    broken = bytearray(wav_file(frames=8) + data)
    broken[at % len(broken)] = value
    try:
        samples = read_wav(bytes(broken))
    except InvalidInput:
        return
    assert samples is None or (samples.dtype == np.float32 and np.isfinite(samples).all())
