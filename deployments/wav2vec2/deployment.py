"""The classifier of livestream clips, served."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ray import serve

from deployments.runtime.node import NodeSettings
from deployments.runtime.serving import RayBatchObserver
from deployments.wav2vec2.node import Wav2Vec2Node
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.values import Clip, ClipScores


@serve.deployment(name="wav2vec2")
class Wav2Vec2Deployment(Wav2Vec2Node):
    def __init__(self, settings: Wav2Vec2Settings, node: NodeSettings) -> None:
        super().__init__(settings, node, RayBatchObserver("wav2vec2"))

    async def classify_sound(self, samples: NDArray[np.float32], language: str | None) -> ClipScores:
        """The samples come by reference, so they are an argument of their own."""
        return await self.classify(Clip(samples, language))
