"""The visual node, served."""

from __future__ import annotations

from ray import serve

from deployments.clip.node import VisualNode
from deployments.clip.settings import ClipSettings
from deployments.runtime.node import NodeSettings
from deployments.runtime.serving import RayBatchObserver


@serve.deployment(name="clip")
class ClipDeployment(VisualNode):
    def __init__(self, encoder: ClipSettings, node: NodeSettings) -> None:
        super().__init__(encoder, node, RayBatchObserver("clip"))
