"""A classifier of clips without weights: loud and shrill is `abusive`. The same contract and errors as the real one.

It tells a quiet sound from a loud one and is the same on every machine; it judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deployments.policy.policy import CATEGORIES
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import SAMPLE_RATE_HZ, ModelCard
from deployments.wav2vec2.classifier import LanguageModel
from deployments.wav2vec2.routing import Route, Router
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.values import Clip, ClipScores, invalid_reason


class FakeClipClassifier:
    """P(abusive) = RMS level (0..1) raised by the share of zero crossings, the rest is P(safe)."""

    card = ModelCard(
        name="fake-clips",
        version="1",
        weights="random",
        dimension=0,
        note="Loudness and pitch: exercises the graph, judges nothing.",
    )

    def __init__(self, settings: Wav2Vec2Settings) -> None:
        self._settings = settings
        self._router = Router(settings.models, settings.default)

    def load(self) -> None:
        """Nothing to read."""

    def example(self) -> Clip:
        return Clip(np.zeros(SAMPLE_RATE_HZ, np.float32), self._settings.default)

    def weight(self, item: Clip) -> int:
        return 1

    def bucket(self, item: Clip) -> str:
        return self._router(item.language).model_language

    def check(self, clip: object) -> InvalidInput | None:
        return invalid_reason(clip, self._settings.max_clip_s)

    def route(self, language: str | None) -> Route:
        return self._router(language)

    def hold_resident(self, language: str | None) -> Callable[[], None]:
        return lambda: None

    def hold(self, language: str | None, timeout_s: float | None = None) -> Callable[[], None]:
        return lambda: None

    def languages(self) -> Sequence[LanguageModel]:
        return [LanguageModel(tag, self.card, True, (), 1.0, 0.0) for tag in self._settings.models]

    def encode(self, items: Sequence[Clip]) -> Sequence[ClipScores | Exception]:
        return [self.check(item) or self._judge(item) for item in items]

    def _judge(self, clip: Clip) -> ClipScores:
        route = self._router(clip.language)
        level = float(np.sqrt(np.mean(np.square(clip.samples, dtype=np.float64))))
        crossings = float(np.mean(np.diff(np.signbit(clip.samples)))) if len(clip.samples) > 1 else 0.0
        abusive = min(1.0, level * (1 + crossings))
        probabilities = np.zeros(len(CATEGORIES), np.float32)
        probabilities[CATEGORIES.index("abusive")] = abusive
        probabilities[CATEGORIES.index("safe")] = 1 - abusive
        return ClipScores(
            probabilities=probabilities,
            labels={"loud": abusive, "quiet": 1 - abusive},
            language=route.language,
            model_language=route.model_language,
            fallback=route.fallback,
            sound_s=clip.sound_s,
            duration_s=0.0,
            model=self.card,
        )
