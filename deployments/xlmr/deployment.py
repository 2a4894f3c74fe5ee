"""The text encoder, served."""

from __future__ import annotations

from ray import serve

from deployments.runtime.node import EncoderNode, NodeSettings
from deployments.runtime.serving import RayBatchObserver
from deployments.runtime.values import TextEmbedding
from deployments.xlmr.registry import make_encoder
from deployments.xlmr.settings import XlmrSettings


@serve.deployment(name="xlmr")
class XlmrDeployment(EncoderNode[str, TextEmbedding]):
    def __init__(self, encoder: XlmrSettings, node: NodeSettings) -> None:
        super().__init__("xlmr", make_encoder(encoder), node, RayBatchObserver("xlmr"))
