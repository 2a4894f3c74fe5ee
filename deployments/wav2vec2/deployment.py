"""The classifier of livestream clips, served."""

from __future__ import annotations

from ray import serve

from deployments.runtime.node import NodeSettings
from deployments.runtime.serving import RayBatchObserver
from deployments.wav2vec2.node import Wav2Vec2Node
from deployments.wav2vec2.settings import Wav2Vec2Settings


@serve.deployment(name="wav2vec2")
class Wav2Vec2Deployment(Wav2Vec2Node):
    def __init__(self, settings: Wav2Vec2Settings, node: NodeSettings) -> None:
        super().__init__(settings, node, RayBatchObserver("wav2vec2"))
