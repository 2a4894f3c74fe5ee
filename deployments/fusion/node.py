"""The fusion node without Ray: embeddings of one post in, category scores and segments out.

The head is a small MLP in numpy; a thread runs it so that the event loop stays free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np

from deployments.fusion.head import FusionHead, FusionInput, FusionOutput
from deployments.fusion.settings import FusionSettings
from deployments.runtime.errors import InvalidInput
from deployments.runtime.health import Health
from deployments.runtime.values import Modality, ModelCard, NodeStatus, TextEmbedding


class FusionNode:
    """Raises MissingWeights or WrongWeights from the constructor."""

    def __init__(self, settings: FusionSettings) -> None:
        self._head = FusionHead.load(settings.artefact, settings.windows)
        self._health = Health("fusion", probe=self._probe, running_s=lambda: 0.0, stuck_after_s=60.0)

    def check_encoders(self, cards: Mapping[str, ModelCard]) -> None:
        """Modality -> card of the encoder that feeds it. Raises WrongWeights where the head was trained on another."""
        self._head.check_encoders(cards)

    async def fuse(self, parts: FusionInput) -> tuple[FusionOutput, ModelCard]:
        """Raises WrongWeights where an encoder is not the one the head was trained on, InvalidInput where an embedding
        does not fit it. Checked for each post, because an encoder may be redeployed under a running head."""
        made_by = {Modality.VISUAL: parts.frames, Modality.AUDIO: parts.sound, Modality.TEXT: parts.text}
        self._head.check_encoders({m: e.model for m, e in made_by.items() if e is not None and e.model is not None})
        try:
            output = await asyncio.to_thread(self._head.predict, parts)
        except InvalidInput:
            raise
        except Exception as error:
            self._health.failed(error)
            raise
        self._health.succeeded()
        return output, self._head.card

    async def status(self) -> NodeStatus:
        return await self._health.status(self._head.card)

    async def check_health(self) -> None:
        await self._health.check()

    async def _probe(self) -> None:
        vector = np.ones(self._head.dimensions[Modality.TEXT], dtype=np.float32)
        await self.fuse(FusionInput(frames=None, sound=None, text=TextEmbedding(vector, tokens=1, truncated=False)))
