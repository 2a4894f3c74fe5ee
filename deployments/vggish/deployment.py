"""The sound encoder, served."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ray import serve

from deployments.runtime.node import EncoderNode, NodeSettings
from deployments.runtime.serving import RayBatchObserver
from deployments.runtime.values import Embeddings, SoundBlock
from deployments.vggish.examples import SoundItem
from deployments.vggish.registry import make_encoder
from deployments.vggish.settings import VggishSettings


@serve.deployment(name="vggish")
class VggishDeployment(EncoderNode[SoundItem, Embeddings]):
    def __init__(self, encoder: VggishSettings, node: NodeSettings) -> None:
        super().__init__("vggish", make_encoder(encoder), node, RayBatchObserver("vggish"))

    async def encode_sound(self, samples: NDArray[np.float32], blocks: tuple[SoundBlock, ...]) -> Embeddings:
        """The samples come by reference, so they are an argument of their own."""
        return await self.encode(SoundItem(samples, blocks))
