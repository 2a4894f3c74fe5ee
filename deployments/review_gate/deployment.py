"""The review gate, served."""

from __future__ import annotations

from ray import serve

from deployments.review_gate.node import GateNode
from deployments.review_gate.settings import GateSettings
from deployments.runtime.serving import RayBatchObserver


@serve.deployment(name="review_gate")
class ReviewGateDeployment(GateNode):
    def __init__(self, settings: GateSettings) -> None:
        super().__init__(settings, RayBatchObserver("review_gate"))
