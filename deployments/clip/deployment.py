"""The visual encoder, served."""

from __future__ import annotations

from ray import serve

from deployments.clip.frames import Frames
from deployments.clip.registry import make_encoder
from deployments.clip.settings import ClipSettings
from deployments.runtime.node import EncoderNode, NodeSettings
from deployments.runtime.serving import RayBatchObserver
from deployments.runtime.values import Embeddings


@serve.deployment(name="clip")
class ClipDeployment(EncoderNode[Frames, Embeddings]):
    def __init__(self, encoder: ClipSettings, node: NodeSettings) -> None:
        super().__init__("clip", make_encoder(encoder), node, RayBatchObserver("clip"))
