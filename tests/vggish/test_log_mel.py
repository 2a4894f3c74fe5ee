"""The front end against two witnesses: the published algorithm written out plainly here, and torchaudio."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal  # type: ignore[import-untyped]
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deployments.vggish.generated_sound import KINDS, generate
from deployments.vggish.log_mel import EXAMPLE_SAMPLES, log_mel_examples, log_mel_spectrogram, mel_matrix

Doubles = NDArray[np.float64]


def published_log_mel(samples: Doubles) -> Doubles:
    """VGGish's features as its README states them, in float64, a window and a band at a time."""
    window = scipy.signal.get_window("hann", 400, fftbins=True)
    triangles = [_triangle(band) for band in range(64)]
    rows = []
    for start in range(0, len(samples) - 400 + 1, 160):
        spectrum = np.abs(np.fft.fft(samples[start : start + 400] * window, 512))[:257]
        rows.append([np.log(spectrum @ triangle + 0.01) for triangle in triangles])
    return np.array(rows)


def _triangle(band: int) -> Doubles:
    """Weight of each of the 257 bins in one band: linear in mel between the corners, DC excluded."""

    def mel(hz: float) -> float:
        return 1127.0 * float(np.log(1.0 + hz / 700.0))

    corners = [mel(125.0) + (mel(7500.0) - mel(125.0)) * i / 65 for i in (band, band + 1, band + 2)]
    weights = np.zeros(257)
    for k in range(1, 257):
        at = mel(k * 8000.0 / 256)
        rising, falling = (at - corners[0]) / (corners[1] - corners[0]), (corners[2] - at) / (corners[2] - corners[1])
        weights[k] = max(0.0, min(rising, falling))
    return weights


@pytest.mark.parametrize("kind", KINDS)
def test_log_mel_is_the_published_one(kind: str) -> None:
    samples = generate(kind, 1.0, np.random.default_rng(5))
    ours, expected = log_mel_spectrogram(samples), published_log_mel(samples.astype(np.float64))
    assert ours.shape == expected.shape == (98, 64)
    assert np.abs(ours - expected).max() < 1e-4


def test_log_mel_is_torchaudios_where_its_filters_are_the_same() -> None:
    """torchaudio draws its triangles in Hz, VGGish in mel: the filters are exchanged, the rest must agree."""
    samples = generate("music-like", 3.0, np.random.default_rng(6))
    mel = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=512, win_length=400, hop_length=160, f_min=125, f_max=7500, n_mels=64, power=1.0, center=False
    )
    mel.mel_scale.fb = torch.from_numpy(mel_matrix())
    # torchaudio centres the 400-sample window in its 512: 56 samples of lead bring the windows together
    padded = torch.from_numpy(np.pad(samples, (56, 56)))
    theirs = torch.log(mel(padded).T + 0.01).numpy()
    ours = log_mel_spectrogram(samples)
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() < 1e-4


def test_the_two_filter_banks_differ_only_in_where_the_triangles_are_straight() -> None:
    theirs = torchaudio.functional.melscale_fbanks(257, 125.0, 7500.0, 64, 16_000, norm=None, mel_scale="htk").numpy()
    assert np.abs(theirs - mel_matrix()).max() < 0.1
    assert mel_matrix()[0].tolist() == [0.0] * 64


@settings(deadline=None, max_examples=25)
@given(samples=st.integers(0, 60_000))
def test_examples_are_whole_and_do_not_overlap(samples: int) -> None:
    sound = np.random.default_rng(samples).uniform(-1, 1, samples).astype(np.float32)
    frames = max(0, 1 + (samples - 400) // 160)
    spectrogram, examples = log_mel_spectrogram(sound), log_mel_examples(sound)
    assert len(spectrogram) == frames
    assert examples.shape == (frames // 96, 96, 64)
    assert np.array_equal(examples.reshape(-1, 64), spectrogram[: len(examples) * 96])


def test_one_sample_less_than_a_whole_example_gives_none() -> None:
    assert len(log_mel_examples(np.zeros(EXAMPLE_SAMPLES, np.float32))) == 1
    assert len(log_mel_examples(np.zeros(EXAMPLE_SAMPLES - 1, np.float32))) == 0


def test_long_sound_is_the_same_as_its_parts() -> None:
    """Longer than one block of windows: no seam where blocks meet."""
    sound = np.random.default_rng(0).uniform(-1, 1, 16_000 * 90).astype(np.float32)
    whole = log_mel_spectrogram(sound)
    start = 4000  # windows; the seam is at 4096
    part = log_mel_spectrogram(sound[start * 160 : start * 160 + 400 + 199 * 160])
    assert np.abs(whole[start : start + 200] - part).max() < 1e-5


def test_digital_silence_is_the_logarithm_of_the_offset() -> None:
    assert np.allclose(log_mel_spectrogram(np.zeros(16_000, np.float32)), np.log(0.01))
