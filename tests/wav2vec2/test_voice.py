"""The voice gate hears what silero-vad's own model hears, and the node skips what has no speech."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.runtime.node import NodeSettings
from deployments.runtime.stand_in_sounds import sound as stand_in
from deployments.wav2vec2.node import Wav2Vec2Node
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.values import Clip, SpeechSegment
from deployments.wav2vec2.voice import PACKAGE, VoiceGate, speech_segments
from tests.wav2vec2.conftest import Array


@pytest.fixture(scope="module")
def gate() -> VoiceGate:
    return VoiceGate()


def voice_like(seconds: float, seed: int = 0) -> Array:
    """Harmonics of a wandering pitch under three moving formants, in syllables: the network takes it for speech."""
    random = np.random.default_rng(seed)
    n = round(seconds * 16_000)
    t = np.arange(n) / 16_000
    pitch = 130 * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * t) + 0.03 * np.sin(2 * np.pi * 5 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    tones = (600 + 250 * np.sin(2 * np.pi * 1.9 * t), 1500 + 600 * np.sin(2 * np.pi * 1.3 * t + 1), 2600 + 0 * t)
    wave = np.zeros(n)
    for k in range(1, 30):
        gain = sum(a * np.exp(-(((k * pitch - f) / 120) ** 2)) for a, f in zip((1, 0.5, 0.25), tones, strict=True))
        wave += (gain + 0.01 / k) * np.sin(k * phase)
    wave *= np.clip(np.sin(np.pi * 3.1 * t + 0.4 * np.sin(2 * np.pi * 0.5 * t)) ** 2 * 1.6 - 0.2, 0, 1)
    made: Array = (0.3 * wave / np.abs(wave).max() + 0.001 * random.standard_normal(n)).astype(np.float32)
    return made


def shipped_probabilities(samples: Array) -> Array:
    """The package's TorchScript model, window by window, as its own `get_speech_timestamps` runs it."""
    path = Path(str(metadata.distribution(PACKAGE).locate_file("silero_vad/data/silero_vad.jit")))
    model = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    model.reset_states()
    padded = np.pad(samples, (0, -len(samples) % 512))
    with torch.inference_mode():
        found = [float(model(torch.from_numpy(window.copy()), 16_000)) for window in padded.reshape(-1, 512)]
    return np.array(found, np.float32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("samples", [16_000 * 3, 16_000 * 2 + 77, 1, 512])
def test_every_window_gets_the_probability_of_the_shipped_model(gate: VoiceGate, samples: int) -> None:
    mixed = voice_like(3.0)[:samples]
    mixed[: samples // 3] = stand_in("safe", 1.0, np.random.default_rng(1))[: samples // 3]
    np.testing.assert_allclose(gate.probabilities(mixed), shipped_probabilities(mixed), atol=1e-4)


def test_silence_noise_and_tones_are_no_speech(gate: VoiceGate) -> None:
    random = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    for quiet in (np.zeros(32_000), 0.1 * random.standard_normal(32_000), tone):
        assert gate.speech_s(quiet.astype(np.float32)) == 0.0


def test_speech_between_silences_is_found_where_it_is(gate: VoiceGate) -> None:
    samples = np.zeros(16_000 * 6, np.float32)
    samples[32_000:64_000] = voice_like(2.0)
    heard = gate.listen(samples)
    assert heard.speech_s == pytest.approx(2.0, abs=0.5)
    assert heard.segments[0].start_s == pytest.approx(2.0, abs=0.3)
    assert heard.segments[-1].end_s == pytest.approx(4.0, abs=0.3)


@settings(deadline=None)
@given(
    probabilities=st.lists(st.floats(0, 1), max_size=120),
    threshold=st.floats(0.05, 0.95),
    cut=st.integers(0, 511),
)
def test_segments_lie_in_the_clip_in_order_and_are_long_enough(
    probabilities: list[float], threshold: float, cut: int
) -> None:
    samples = max(0, len(probabilities) * 512 - cut)
    found = speech_segments(probabilities, samples, threshold)
    edges = [edge for segment in found for edge in (segment.start_s, segment.end_s)]
    assert edges == sorted(edges)
    assert all(0 <= edge <= samples / 16_000 for edge in edges)
    assert all(segment.end_s - segment.start_s > 0.25 for segment in found)


def test_a_short_pause_does_not_end_speech_and_a_long_one_does() -> None:
    second = round(16_000 / 512)
    speech, pause = [0.9] * second, [0.1]
    assert len(speech_segments(speech + pause * 3 + speech, 512 * (2 * second + 3), 0.5)) == 1
    assert len(speech_segments(speech + pause * 6 + speech, 512 * (2 * second + 6), 0.5)) == 2
    assert speech_segments([0.9] * 7, 512 * 7, 0.5) == ()  # 224 ms: too short
    assert speech_segments([0.0] * second + speech, 512 * 2 * second, 0.5) == (
        SpeechSegment((512 * second - 480) / 16_000, 512 * 2 * second / 16_000),
    )


async def test_a_clip_without_speech_is_skipped_and_gets_no_probabilities() -> None:
    settings = Wav2Vec2Settings(variant="fake", voice_gate="on", models={"en": "x", "hi": "y"}, default="en")
    node = Wav2Vec2Node(settings, NodeSettings())
    skipped = await node.classify(Clip(np.zeros(32_000, np.float32), "hi-IN"))
    assert (skipped.skipped, skipped.probabilities, skipped.category_scores) == ("no_speech", None, None)
    assert (skipped.nsfw_score, skipped.model, skipped.speech_s, skipped.sound_s) == (None, None, 0.0, 2.0)
    assert (skipped.model_language, skipped.fallback) == ("hi", False)
    heard = await node.classify(Clip(voice_like(2.0), "hi-IN"))
    assert heard.skipped is None
    assert heard.probabilities is not None
    assert heard.speech_s is not None
    assert heard.speech_s > 1.0
    assert heard.segments
    await node.close()


async def test_with_the_gate_off_nothing_is_skipped_and_nothing_is_said_of_speech() -> None:
    node = Wav2Vec2Node(Wav2Vec2Settings(variant="fake"), NodeSettings())
    scores = await node.classify(Clip(np.zeros(32_000, np.float32)))
    assert (scores.skipped, scores.speech_s) == (None, None)
    assert scores.probabilities is not None
    await node.close()
