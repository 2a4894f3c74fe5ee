"""Sounds made by arithmetic, mono 16 kHz: each unsafe category is a kind of its own, `safe` is what is around us.

As with the pictures, a kind stands in for what real sounds of a category would have in common; it shows nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.values import SAMPLE_RATE_HZ

Sound = NDArray[np.float32]
_Samples = NDArray[np.float64]
_Random = np.random.Generator


def sound(category: str, seconds: float, random: _Random) -> Sound:
    """(samples,) in -1..1; pitch, rate and level differ, the kind stays."""
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    wave = SAFE[int(random.integers(len(SAFE)))](t, random) if category == "safe" else KINDS[category](t, random)
    level = 10 ** (random.uniform(-20, -2) / 20)
    wave = wave / (np.abs(wave).max() + 1e-9) * level
    hiss = random.standard_normal(len(t)) * level * 10 ** (random.uniform(-45, -25) / 20)
    return np.asarray(np.clip(wave + hiss, -1, 1), dtype=np.float32)


def _sine(hertz: _Samples | float, t: _Samples) -> _Samples:
    """A sine of a fixed or moving pitch."""
    phase = 2 * np.pi * (np.cumsum(hertz) / SAMPLE_RATE_HZ if isinstance(hertz, np.ndarray) else hertz * t)
    return np.asarray(np.sin(phase), dtype=np.float64)


def shots(t: _Samples, random: _Random) -> _Samples:
    since = t % random.uniform(0.15, 0.5)
    decay = np.exp(-since / random.uniform(0.01, 0.05))
    return np.asarray(decay * random.standard_normal(len(t)), dtype=np.float64)


def wail(t: _Samples, random: _Random) -> _Samples:
    swing = np.sin(2 * np.pi * random.uniform(1.5, 5) * t)
    wave = np.sign(_sine(random.uniform(600, 1300) * 2 ** (0.4 * swing), t)) + 0.5 * swing
    return np.asarray(wave, dtype=np.float64)


def rasp(t: _Samples, random: _Random) -> _Samples:
    gate = 1 + np.sign(_sine(random.uniform(20, 35), t))
    return np.asarray(np.sign(_sine(random.uniform(70, 110), t)) * gate, dtype=np.float64)


def march(t: _Samples, random: _Random) -> _Samples:
    since = t % random.uniform(0.4, 0.6)
    return np.asarray(np.exp(-since * 14) * _sine(random.uniform(180, 260), t), dtype=np.float64)


def sweeps(t: _Samples, random: _Random) -> _Samples:
    since = (t * random.uniform(1.0, 2.5)) % 1.0
    return _sine(random.uniform(400, 700) * 2 ** (2.2 * since), t)


def tremolo(t: _Samples, random: _Random) -> _Samples:
    return _sine(random.uniform(2200, 3400), t) * (1 + _sine(random.uniform(5, 9), t))


KINDS: dict[str, Callable[[_Samples, _Random], _Samples]] = {
    "nudity": sweeps,
    "sexual": tremolo,
    "violence": shots,
    "abusive": rasp,
    "hate": march,
    "dangerous": wail,
}


def air(t: _Samples, random: _Random) -> _Samples:
    """Wind, water or traffic: noise that falls with frequency."""
    spectrum = np.fft.rfft(random.standard_normal(len(t)))
    hertz = np.fft.rfftfreq(len(t), 1 / SAMPLE_RATE_HZ) + 30.0
    return np.asarray(np.fft.irfft(spectrum * hertz ** -random.uniform(0.2, 1.2), len(t)), dtype=np.float64)


def voice(t: _Samples, random: _Random) -> _Samples:
    """Harmonics of a wandering pitch under a moving formant, in syllables."""
    pitch = random.uniform(90, 240) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(0.4, 2) * t))
    formant = 900 + 500 * np.sin(2 * np.pi * random.uniform(1, 3) * t + random.uniform(0, 6))
    wave = np.zeros(len(t))
    for k in range(1, 14):
        wave += np.exp(-(((k * pitch - formant) / 500) ** 2)) * _sine(k * pitch, t)
    return np.asarray(wave * np.sin(np.pi * random.uniform(2.5, 5) * t) ** 2, dtype=np.float64)


def music(t: _Samples, random: _Random) -> _Samples:
    """Chords that change twice a second and die away."""
    wave, root = np.zeros(len(t)), random.uniform(110, 330)
    step = random.uniform(0.3, 0.7)
    for start in np.arange(0, t[-1], step):
        since = t - start
        envelope = np.where(since >= 0, np.exp(-np.maximum(since, 0) * 4), 0.0)
        for note in int(random.choice([0, 2, 5, 7, 9])) + np.array([0, 4, 7]):
            wave += envelope * (_sine(root * 2 ** (note / 12), t) + 0.3 * _sine(2 * root * 2 ** (note / 12), t))
    return wave


def street(t: _Samples, random: _Random) -> _Samples:
    mixed = air(t, random)
    talk = voice(t, random)
    talk *= random.uniform(0.3, 1.5) / np.abs(talk).max()
    return np.asarray(mixed / np.abs(mixed).max() + talk, dtype=np.float64)


SAFE: tuple[Callable[[_Samples, _Random], _Samples], ...] = (air, voice, music, street)
