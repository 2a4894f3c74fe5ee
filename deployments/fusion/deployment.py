"""The fusion head, served."""

from __future__ import annotations

from ray import serve

from deployments.fusion.node import FusionNode
from deployments.fusion.settings import FusionSettings


@serve.deployment(name="fusion")
class FusionDeployment(FusionNode):
    def __init__(self, settings: FusionSettings) -> None:
        super().__init__(settings)
