"""How much of a clip is speech, by Silero VAD's own weights (MIT) as its package ships them; it is never imported.

    samples -> windows of 32 ms, each with the last 4 ms of the one before -> spectrum -> LSTM -> probability of speech
    -> segments with hysteresis, as the package's own `get_speech_timestamps` joins them

The network is the package's `tinygrad_model.py` written for torch; all windows' spectra and convolutions are one pass,
only the LSTM goes window by window.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deployments.runtime.values import SAMPLE_RATE_HZ, ModelCard
from deployments.runtime.weights import load_strictly, package_file, read_state_dict, verify_sha256
from deployments.wav2vec2.values import Samples, SpeechSegment

PACKAGE, PACKAGE_VERSION = "silero-vad", "6.2.3"
FILE_IN_PACKAGE = "silero_vad/data/silero_vad_16k.safetensors"
SHA256 = "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1"

WINDOW_SAMPLES = 512
"""32 ms: what one probability says of."""

_CONTEXT_SAMPLES = 64
_BINS = 129  # of a 256-point spectrum
_UNITS = 128
_HYSTERESIS = 0.15  # speech ends below threshold - this, in the package's get_speech_timestamps
_MIN_SPEECH_S, _MIN_SILENCE_S, _PAD_S = 0.25, 0.1, 0.03


@dataclass(frozen=True)
class Speech:
    """What the gate heard in one clip."""

    speech_s: float
    segments: tuple[SpeechSegment, ...]
    duration_s: float  # wall-clock time of listening


class SileroVad(nn.Module):
    """Names and shapes of the shipped 16 kHz weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * _BINS, 256, stride=128, bias=False)  # real parts, then imaginary ones
        self.conv1 = nn.Conv1d(_BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, _UNITS, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(_UNITS, _UNITS)
        self.final_conv = nn.Conv1d(_UNITS, 1, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """(n, 64 + 512) consecutive windows with their context -> (n,) probabilities of speech."""
        x = nn.functional.pad(windows, (0, _CONTEXT_SAMPLES), "reflect").unsqueeze(1)
        spectrum = self.stft_conv(x)
        x = (spectrum[:, :_BINS] ** 2 + spectrum[:, _BINS:] ** 2).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        hidden = self._recur(x.squeeze(-1))
        probabilities: Tensor = self.final_conv(hidden.relu().unsqueeze(-1)).sigmoid().flatten()
        return probabilities

    def _recur(self, x: Tensor) -> Tensor:
        """(n, 128) -> (n, 128): torch's LSTM over the whole sequence with the cell's weights."""
        cell = self.lstm_cell
        state = torch.zeros(1, 1, _UNITS)
        weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        output, _, _ = torch.lstm(x.unsqueeze(1), (state, state), weights, True, 1, 0.0, False, False, False)
        return output.squeeze(1)


class VoiceGate:
    """Loaded in the constructor: raises MissingWeights or WrongWeights."""

    card = ModelCard(
        name=PACKAGE,
        version=PACKAGE_VERSION,
        weights="pretrained",
        dimension=0,
        sha256=SHA256,
        note="Tells speech from other sound; a scream, a shot or music without words is no speech to it.",
    )

    def __init__(self, threshold: float = 0.5, threads: int = 1) -> None:
        path = locate()
        verify_sha256(path, SHA256)
        self._threshold = threshold
        torch.set_num_threads(threads)
        self._network = SileroVad()
        load_strictly(self._network, read_state_dict(path), path)
        self._network.eval().requires_grad_(False)

    def speech_s(self, samples: Samples) -> float:
        """Seconds of speech in a clip of 16 kHz sound."""
        return self.listen(samples).speech_s

    def listen(self, samples: Samples) -> Speech:
        """Seconds of speech, and where they are."""
        started = time.perf_counter()
        segments = speech_segments(self.probabilities(samples), len(samples), self._threshold)
        seconds = sum(segment.end_s - segment.start_s for segment in segments)
        return Speech(seconds, segments, time.perf_counter() - started)

    @torch.inference_mode()
    def probabilities(self, samples: Samples) -> NDArray[np.float32]:
        """(windows,) of speech in each 32 ms; the last window is filled up with silence."""
        filled = np.pad(samples, (_CONTEXT_SAMPLES, -len(samples) % WINDOW_SAMPLES))
        windows = torch.from_numpy(filled).unfold(0, _CONTEXT_SAMPLES + WINDOW_SAMPLES, WINDOW_SAMPLES)
        found: NDArray[np.float32] = self._network(windows).numpy()
        return found


def locate() -> Path:
    """The weight file, not yet verified. Raises MissingWeights naming the package."""
    return package_file(PACKAGE, PACKAGE_VERSION, FILE_IN_PACKAGE)


def speech_segments(
    probabilities: Sequence[float] | NDArray[np.float32], samples: int, threshold: float
) -> tuple[SpeechSegment, ...]:
    """Stretches that begin at `threshold` and end at 100 ms below `threshold - 0.15`; at least 250 ms, 30 ms wider.

    Equal to the package's `get_speech_timestamps_from_probs` at its own defaults.
    """
    found = [part for part in _stretches(probabilities, samples, threshold) if part[1] - part[0] > _rate(_MIN_SPEECH_S)]
    pad, segments = _rate(_PAD_S), []
    for at, (start, end) in enumerate(found):
        before = found[at - 1][1] if at else -2 * pad
        after = found[at + 1][0] if at + 1 < len(found) else samples + 2 * pad
        start -= min(pad, (start - before) // 2)
        end += min(pad, (after - end) // 2)
        segments.append(SpeechSegment(max(0, start) / SAMPLE_RATE_HZ, min(samples, end) / SAMPLE_RATE_HZ))
    return tuple(segments)


def _stretches(
    probabilities: Sequence[float] | NDArray[np.float32], samples: int, threshold: float
) -> list[tuple[int, int]]:
    """(start, end) in samples of every stretch of speech, however short."""
    leave = max(threshold - _HYSTERESIS, 0.01)
    stretches: list[tuple[int, int]] = []
    start = quiet_since = None
    for at, probability in enumerate(probabilities):
        now = at * WINDOW_SAMPLES
        if probability >= threshold:
            start, quiet_since = now if start is None else start, None
        elif start is not None and probability < leave:
            quiet_since = now if quiet_since is None else quiet_since
            if now - quiet_since >= _rate(_MIN_SILENCE_S):
                stretches.append((start, quiet_since))
                start = quiet_since = None
    if start is not None:
        stretches.append((start, samples))
    return stretches


def _rate(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE_HZ)
