"""The visual node without Ray: frames of posts, and, where the encoder has a joint space, texts to search them by.

Both go through the one model, never at the same time: an encoder is driven from one thread at a time. A pass of
either, and work that is stuck in either, counts for the node's health.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

from deployments.clip.frames import Frames
from deployments.clip.registry import make_encoder
from deployments.clip.settings import ClipSettings
from deployments.runtime.batcher import BatchObserver, BatchSettings, MicroBatcher
from deployments.runtime.node import EncoderNode, NodeSettings
from deployments.runtime.values import Embeddings, TextEmbedding

MAX_TEXTS = 32


class VisualNode(EncoderNode[Frames, Embeddings]):
    """Raises MissingWeights or WrongWeights from the constructor."""

    def __init__(self, encoder: ClipSettings, node: NodeSettings, observer: BatchObserver | None = None) -> None:
        self._model = threading.Lock()
        self._joint = make_encoder(encoder)
        super().__init__("clip", self._joint, node, observer)
        self._texts: MicroBatcher[str, TextEmbedding] = MicroBatcher(
            self._embed_texts, settings=BatchSettings(max_batch_weight=MAX_TEXTS)
        )

    async def close(self) -> None:
        await self._texts.close()
        await super().close()

    async def encode_joint_text(self, text: str) -> TextEmbedding:
        """Text in the space shared with frames. Raises NotFound where the encoder has no such space."""
        return dataclasses.replace(await self._texts.submit(text), model=self.encoder.card)

    def _encode(self, items: Sequence[Frames]) -> Sequence[Embeddings | Exception]:
        with self._model:
            return super()._encode(items)

    def _embed_texts(self, texts: Sequence[str]) -> Sequence[TextEmbedding | Exception]:
        with self._model:
            return self._counted(self._joint.embed_text, texts)

    def _oldest_running_s(self) -> float:
        return max(super()._oldest_running_s(), self._texts.oldest_running_s())
