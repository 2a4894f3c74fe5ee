"""Which classifiers of clips there are. The real one's libraries are imported only when it is asked for."""

from __future__ import annotations

from deployments.wav2vec2.classifier import ClipClassifier
from deployments.wav2vec2.settings import Wav2Vec2Settings


def make_classifier(settings: Wav2Vec2Settings) -> ClipClassifier:
    """The classifier the settings name, not yet loaded."""
    if settings.variant == "fake":
        from deployments.wav2vec2.fake import FakeClipClassifier

        return FakeClipClassifier(settings)
    from deployments.wav2vec2.encoder import Wav2Vec2Classifier

    return Wav2Vec2Classifier(settings)
