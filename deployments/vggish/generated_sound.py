"""Sounds made by arithmetic, each of a known kind: what the small network is trained on and tested with.

Every sound is drawn from the generator it is given: pitch, rate, gain and room differ, the kind stays. They stand in
for real sound, of which none may ship with the code; they resemble it only in outline.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.values import SAMPLE_RATE_HZ

Sound = NDArray[np.float32]
"""(n,) mono 16 kHz in -1..1."""

_Samples = NDArray[np.float64]
_Random = np.random.Generator


def generate(kind: str, seconds: float, random: _Random) -> Sound:
    """A sound of that kind, at a random level (-26 to 0 dB of full scale) with 10 to 40 dB less noise behind it."""
    n = round(seconds * SAMPLE_RATE_HZ)
    sound = KINDS[kind](n, random)
    if kind != "silence":
        sound = sound / (np.abs(sound).max() + 1e-9) * 10 ** (random.uniform(-26, 0) / 20)
        noise = random.standard_normal(n) * np.abs(sound).max()
        sound = sound + noise * 10 ** (-random.uniform(10, 40) / 20) * 0.3
    return np.clip(sound, -1, 1).astype(np.float32)


def _time(n: int) -> _Samples:
    return np.arange(n) / SAMPLE_RATE_HZ


def _pitch(low_hz: float, high_hz: float, random: _Random) -> float:
    return float(np.exp(random.uniform(np.log(low_hz), np.log(high_hz))))


def _voice(phase: _Samples, harmonics: int, roll_off: float) -> _Samples:
    """Sum of harmonics of a running phase (radians), each `roll_off` times the one below."""
    turn = np.exp(1j * phase)
    harmonic, total = turn.copy(), turn.copy()
    for _ in range(1, harmonics):
        harmonic *= roll_off * turn
        total += harmonic
    return np.asarray(total.imag)


def silence(n: int, random: _Random) -> _Samples:
    """Digital zero, or hiss at -80 to -55 dB."""
    level = 0.0 if random.random() < 0.2 else 10 ** (random.uniform(-80, -55) / 20)
    return level * random.standard_normal(n)


def tone(n: int, random: _Random) -> _Samples:
    """One steady pitch, with a few harmonics at times."""
    phase = 2 * np.pi * _pitch(150, 4000, random) * _time(n) + random.uniform(0, 2 * np.pi)
    return _voice(phase, int(random.integers(1, 4)), 0.4)


def chirp(n: int, random: _Random) -> _Samples:
    """A pitch that glides once, up or down, over at least an octave and a half a second."""
    start, octaves = _pitch(200, 1500, random), random.uniform(1.0, 2.2)
    frequency = start * 2 ** (octaves * _time(n) / (n / SAMPLE_RATE_HZ))
    if random.random() < 0.5:
        frequency = frequency[::-1]
    return np.sin(2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE_HZ)


def noise(n: int, random: _Random) -> _Samples:
    """White to brown noise, in a random band: wind, water, traffic."""
    spectrum = np.fft.rfft(random.standard_normal(n))
    frequency = np.fft.rfftfreq(n, 1 / SAMPLE_RATE_HZ) + 20.0
    low, width = _pitch(40, 1000, random), random.uniform(2, 6)
    band = (frequency > low) & (frequency < low * 2**width)
    return np.fft.irfft(spectrum * frequency ** -random.uniform(0, 1) * np.where(band, 1.0, 0.05), n)


def bursts(n: int, random: _Random) -> _Samples:
    """One to eight shots a second: noise with a sudden start and a decay of 8 to 60 ms."""
    total, t = np.zeros(n), _time(n)
    for _ in range(max(1, round(random.uniform(1, 8) * n / SAMPLE_RATE_HZ))):
        since = t - random.uniform(0, 0.9 * n / SAMPLE_RATE_HZ)
        decay = np.where(since >= 0, np.exp(-np.maximum(since, 0) / random.uniform(0.008, 0.06)), 0.0)
        total += random.uniform(0.4, 1.0) * decay * random.standard_normal(n)
    return total


def siren(n: int, random: _Random) -> _Samples:
    """A pitch that wails: up and down two to six times a second, or between two notes."""
    swing = np.sin(2 * np.pi * random.uniform(2, 6) * _time(n) + random.uniform(0, 2 * np.pi))
    swing = np.sign(swing) if random.random() < 0.4 else swing
    frequency = _pitch(500, 1500, random) * 2 ** (random.uniform(0.2, 0.6) * swing)
    return _voice(2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE_HZ, 4, 0.4)


def speech_like(n: int, random: _Random) -> _Samples:
    """Harmonics of a wandering voice under two moving formants, three to six syllables a second."""
    t, rate = _time(n), random.uniform(3, 6)
    wander = 1 + 0.12 * np.sin(2 * np.pi * random.uniform(0.5, 2) * t + random.uniform(0, 6))
    pitch = _pitch(90, 260, random) * wander
    first = 500 + 250 * np.sin(2 * np.pi * rate * 0.5 * t + random.uniform(0, 6))
    second = 1600 + 600 * np.sin(2 * np.pi * rate * 0.37 * t + random.uniform(0, 6))
    turn = np.exp(2j * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ)
    harmonic, total = np.ones_like(turn), np.zeros(n)
    for k in range(1, int(3500 / pitch.mean())):
        harmonic *= turn
        total += _formants(k * pitch, first, second) * harmonic.imag
    syllables = np.sin(np.pi * rate * t + random.uniform(0, 6)) ** 2
    return total * np.where(syllables > 0.15, syllables, 0.02)


def _formants(hz: _Samples, first_hz: _Samples, second_hz: _Samples) -> _Samples:
    """Gain at a frequency that moves, under resonances that move: computed every 2 ms and joined by lines."""
    every = slice(None, None, 32)
    hz_, first_, second_ = hz[every], first_hz[every], second_hz[every]
    gain = np.exp(-(((hz_ - first_) / 150) ** 2)) + 0.5 * np.exp(-(((hz_ - second_) / 250) ** 2)) + 0.02
    return np.interp(np.arange(len(hz)), np.arange(len(hz))[every], gain)


def music_like(n: int, random: _Random) -> _Samples:
    """Chords of three notes of a scale, struck two to five times a second, each dying away."""
    total, t, root = np.zeros(n), _time(n), _pitch(110, 330, random)
    step, minor = 1 / random.uniform(2, 5), random.random() < 0.5
    for i in range(int(n / SAMPLE_RATE_HZ / step) + 1):
        since = t - i * step
        envelope = np.where(since >= 0, np.exp(-np.maximum(since, 0) * random.uniform(2, 6)), 0.0)
        degree = int(random.choice([0, 2, 5, 7, 9]))
        for note in (degree, degree + (3 if minor else 4), degree + 7):
            total += envelope * _voice(2 * np.pi * root * 2 ** (note / 12) * t, 5, 0.55)
    return total


KINDS: dict[str, Callable[[int, _Random], _Samples]] = {
    "silence": silence,
    "tone": tone,
    "chirp": chirp,
    "noise": noise,
    "bursts": bursts,
    "siren": siren,
    "speech-like": speech_like,
    "music-like": music_like,
}
