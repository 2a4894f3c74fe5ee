"""How much of a clip is speech, by Silero VAD's own network and weights (MIT) as its package ships them.

    samples -> windows of 32 ms, each with the last 4 ms of the one before -> network, all windows in one pass
    -> probability of speech in each -> segments with hysteresis, as the package's `get_speech_timestamps` joins them

The package is never imported: its `silero_vad_16k_sequence.onnx` runs in OpenVINO, in fp32. A 20 s clip takes 8 ms of a
core, a thirtieth of the package's own pass window by window, and gives the same probabilities to 1e-5.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.values import SAMPLE_RATE_HZ, ModelCard
from deployments.runtime.weights import package_file, verify_sha256
from deployments.wav2vec2.values import Samples, SpeechSegment

if TYPE_CHECKING:
    import openvino as ov

PACKAGE, PACKAGE_VERSION = "silero-vad", "6.2.3"
FILE_IN_PACKAGE = "silero_vad/data/silero_vad_16k_sequence.onnx"
SHA256 = "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"

WINDOW_SAMPLES = 512
"""32 ms: what one probability says of."""

_CONTEXT_SAMPLES = 64
_STATE = (1, 1, 128)  # of the LSTM, twice
_HYSTERESIS = 0.15  # speech ends below threshold - this, in the package's get_speech_timestamps
_MIN_SPEECH_S, _MIN_SILENCE_S, _PAD_S = 0.25, 0.1, 0.03


@dataclass(frozen=True)
class Speech:
    """What the gate heard in one clip."""

    speech_s: float
    segments: tuple[SpeechSegment, ...]
    duration_s: float  # wall-clock time of listening


class VoiceGate:
    """Loaded in the constructor: raises MissingWeights or WrongWeights. Driven from one thread at a time."""

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
        self._network = _compile(path, threads)

    def speech_s(self, samples: Samples) -> float:
        """Seconds of speech in a clip of 16 kHz sound."""
        return self.listen(samples).speech_s

    def listen(self, samples: Samples) -> Speech:
        """Seconds of speech, and where they are."""
        started = time.perf_counter()
        segments = speech_segments(self.probabilities(samples), len(samples), self._threshold)
        seconds = sum(segment.end_s - segment.start_s for segment in segments)
        return Speech(float(seconds), segments, time.perf_counter() - started)

    def probabilities(self, samples: Samples) -> NDArray[np.float32]:
        """(windows,) of speech in each 32 ms; the last window is filled up with silence."""
        filled = np.pad(samples, (_CONTEXT_SAMPLES, -len(samples) % WINDOW_SAMPLES))
        windows = np.lib.stride_tricks.sliding_window_view(filled, _CONTEXT_SAMPLES + WINDOW_SAMPLES)[::WINDOW_SAMPLES]
        silence = np.zeros(_STATE, np.float32)
        found: NDArray[np.float32] = np.array(self._network([np.ascontiguousarray(windows), silence, silence])[0])
        return found


def _compile(path: Path, threads: int) -> ov.CompiledModel:
    """Inputs: windows with context (n, 576), hidden and cell state. First output: (n,) probabilities."""
    import openvino as ov

    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,  # several replicas on one machine would be pinned to the same cores
    }
    return ov.Core().compile_model(path, "CPU", config)


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
