"""VGGish's front end: 16 kHz sound -> log-mel examples of 96 frames x 64 bands, without overlap.

Parameters and mel formula as published with AudioSet's VGGish (Hershey et al. 2017; vggish_params.py and
mel_features.py of tensorflow/models, Apache-2.0). Frames are not centred, the last incomplete one is dropped, and the
spectrum is a magnitude, not a power.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.values import SAMPLE_RATE_HZ

WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
FFT_LENGTH = 512
MEL_BANDS = 64
MEL_MIN_HZ, MEL_MAX_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
EXAMPLE_FRAMES = 96  # 0.96 s
EXAMPLE_SECONDS = EXAMPLE_FRAMES * HOP_SAMPLES / SAMPLE_RATE_HZ
EXAMPLE_SAMPLES = WINDOW_SAMPLES + (EXAMPLE_FRAMES - 1) * HOP_SAMPLES
"""15 600: the shortest sound that has 96 whole windows (0.975 s, a little more than one example lasts)."""

_STFT_BLOCK_FRAMES = 4096  # bounds the memory of hour-long sound: 16 MiB of spectrum at a time


def log_mel_examples(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) in -1..1 at 16 kHz -> (n examples, 96, 64); 0 examples for less than 15 600 samples."""
    log_mel = log_mel_spectrogram(samples)
    whole = len(log_mel) // EXAMPLE_FRAMES
    return log_mel[: whole * EXAMPLE_FRAMES].reshape(whole, EXAMPLE_FRAMES, MEL_BANDS)


def log_mel_spectrogram(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) -> (1 + (n - 400) // 160, 64): log(mel magnitude + 0.01)."""
    if len(samples) < WINDOW_SAMPLES:
        return np.zeros((0, MEL_BANDS), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::HOP_SAMPLES]
    blocks = [_log_mel_block(windows[i : i + _STFT_BLOCK_FRAMES]) for i in range(0, len(windows), _STFT_BLOCK_FRAMES)]
    return np.concatenate(blocks)


def _log_mel_block(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(frames, 400) -> (frames, 64). By torch, which keeps to its replica's threads: numpy's BLAS starts its own."""
    import torch

    magnitude = torch.fft.rfft(torch.from_numpy(windows * periodic_hann()), FFT_LENGTH).abs()  # (frames, 257)
    log_mel: NDArray[np.float32] = torch.log(magnitude @ torch.from_numpy(mel_matrix()) + LOG_OFFSET).numpy()
    return log_mel


@lru_cache(maxsize=1)
def periodic_hann() -> NDArray[np.float32]:
    """(400,): a whole cosine period over the window, unlike numpy's symmetric `hanning`."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES)).astype(np.float32)


@lru_cache(maxsize=1)
def mel_matrix() -> NDArray[np.float32]:
    """(257, 64): triangles with corners equally spaced in mel, height 1, no area normalisation, DC bin zero."""
    bins = _hz_to_mel(np.linspace(0.0, SAMPLE_RATE_HZ / 2, FFT_LENGTH // 2 + 1))[:, None]
    edges = np.linspace(_hz_to_mel(np.array(MEL_MIN_HZ)), _hz_to_mel(np.array(MEL_MAX_HZ)), MEL_BANDS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return weights.astype(np.float32)


def _hz_to_mel(frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """HTK: 1127 ln(1 + f / 700)."""
    mel: NDArray[np.float64] = 1127.0 * np.log1p(frequency_hz / 700.0)
    return mel
