"""What the voice gate saves on a mix of clips, and which clips it keeps from the model that it should not.

Without speech: silence, air, music, and the stand-ins for unsafe sounds (shots, wails: no speech, so the gate skips
them by its nature, and whoever looks for such sounds must leave it off). With speech: recordings out of `--speech`, one
utterance in each clip, over wind-like noise of three levels; without that folder every clip with speech counts as let
through, and the recall is not measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import av
import numpy as np

from benchmarks.livestream.clips import CLIP_S, Samples
from benchmarks.report import Row
from deployments.runtime.stand_in_sounds import KINDS, air, music
from deployments.runtime.values import SAMPLE_RATE_HZ
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.voice import VoiceGate

SNR_DB = (20, 10, 0)
_SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".gsm", ".opus")
_MIN_UTTERANCE_S = 1.0
_LENGTH = round(CLIP_S * SAMPLE_RATE_HZ)
_T = np.arange(_LENGTH) / SAMPLE_RATE_HZ
Make = Callable[[np.random.Generator], Samples]


def rows(model_core_s: float, path_core_s: float, speech: Path | None, count: int) -> list[Row]:
    """`count`: clips of each kind. `path_core_s`: what a clip costs beside the model, skipped or not."""
    settings = Wav2Vec2Settings()
    gate, least_s = VoiceGate(settings.voice_threshold), settings.min_speech_s
    random = np.random.default_rng(3)
    spoken = _spoken(speech)
    quiet: dict[str, Make] = {
        "silence": lambda _: np.zeros(_LENGTH, np.float32),
        "air": lambda r: _level(air(_T, r)),
        "music": lambda r: _level(music(_T, r)),
        "unsafe_stand_ins": lambda r: _level(list(KINDS.values())[int(r.integers(len(KINDS)))](_T, r)),
    }
    spent_s, heard = 0.0, 0
    found: dict[str, float] = {}
    for name, make in (quiet | dict(spoken)).items():
        missed = 0
        for _ in range(count):
            clip = make(random)
            started = time.process_time()
            missed += gate.speech_s(clip) < least_s
            spent_s, heard = spent_s + time.process_time() - started, heard + 1
        found[name] = missed / count
    gate_s = spent_s / heard
    # half of the clips without speech, in equal parts; half with, likewise
    of_speech = [found[name] for name in spoken] or [0.0]
    skipped = float(np.mean([found[name] for name in quiet]) + np.mean(of_speech)) / 2
    on_s, off_s = path_core_s + gate_s + (1 - skipped) * model_core_s, path_core_s + model_core_s
    shares = [Row(f"gate_skips_{name}", share, "of clips") for name, share in found.items()]
    return [
        Row("gate_cost", 1000 * gate_s, "core-ms/clip", 1000 * model_core_s, gate_s / model_core_s),
        *shares,
        Row("gate_cost_of_half_speech", on_s, "core-s/clip", off_s, on_s / off_s),
    ]


def _spoken(folder: Path | None) -> Mapping[str, Make]:
    if folder is None:
        return {}
    utterances = [_read(path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SOUNDS]
    long = [one for one in utterances if len(one) >= _MIN_UTTERANCE_S * SAMPLE_RATE_HZ]
    if not long:
        raise SystemExit(f"{folder}: no sound file of {_MIN_UTTERANCE_S:g} s or more")
    return {f"speech_at_{snr}_db": lambda r, snr=snr: _over_noise(long, snr, r) for snr in SNR_DB}  # type: ignore[misc]


def _over_noise(utterances: list[Samples], snr_db: float, random: np.random.Generator) -> Samples:
    """One utterance somewhere in 20 s of noise; the ratio is that of their powers while it is spoken."""
    spoken = utterances[int(random.integers(len(utterances)))][:_LENGTH]
    noise = air(_T, random)
    noise *= np.sqrt(np.mean(spoken**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    start = int(random.integers(_LENGTH - len(spoken) + 1))
    noise[start : start + len(spoken)] += spoken
    return _level(noise)


def _level(wave: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Samples:
    return np.asarray(0.5 * wave / (np.abs(wave).max() + 1e-9), np.float32)


def _read(path: Path) -> Samples:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(str(path)) as container:
        parts = [f.to_ndarray()[0] for frame in container.decode(audio=0) for f in resampler.resample(frame)]
        parts += [frame.to_ndarray()[0] for frame in resampler.resample(None)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
