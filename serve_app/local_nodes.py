"""The same nodes in this process, without Ray: for `parakh moderate`, `parakh doctor`, training and tests.

A node is made at its first use, so that judging one text loads one model.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from deployments.clip.node import VisualNode
from deployments.clip.registry import frame_spec
from deployments.fusion.head import FusionInput, FusionOutput
from deployments.fusion.node import FusionNode
from deployments.media.node import MediaNode
from deployments.media.windows import SoundCut
from deployments.review_gate.node import GateNode
from deployments.runtime.errors import ParakhError
from deployments.runtime.node import EncoderNode
from deployments.runtime.values import Embeddings, ModelCard, NodeStatus, SoundBlock, SoundWindow, TextEmbedding
from deployments.vggish.examples import SoundItem
from deployments.vggish.registry import make_encoder as make_sound_encoder
from deployments.wav2vec2.node import Wav2Vec2Node
from deployments.wav2vec2.values import Clip, ClipScores
from deployments.xlmr.registry import make_encoder as make_text_encoder
from serve_app.config import AppConfig
from serve_app.nodes import Decoded
from serve_app.posts import MediaSource
from serve_app.streams.errors import StreamsOff

Node = TypeVar("Node")


class HasStatus(Protocol):
    async def status(self) -> NodeStatus: ...


class LocalNodes:
    """NodeHandles over plain objects. Raises MissingWeights or WrongWeights at a node's first use."""

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        self._made: dict[str, Any] = {}
        self._lock = asyncio.Lock()

    async def decode(self, media: MediaSource) -> Decoded:
        node = await self._media()
        data = media.data if media.url is None else await node.fetch(media.url)
        decoded = await node.decode(data or b"")
        return Decoded(dataclasses.replace(decoded, frames=None, sound=None), decoded.frames, decoded.sound)

    async def fetch(self, url: str) -> bytes:
        return await (await self._media()).fetch(url)

    async def encode_frames(self, frames: Any) -> Embeddings:
        return await (await self._clip()).encode(frames)

    async def encode_sound(self, sound: Any, blocks: tuple[SoundBlock, ...]) -> Embeddings:
        return await (await self._vggish()).encode(SoundItem(sound, blocks))

    async def encode_text(self, text: str) -> TextEmbedding:
        return await (await self._xlmr()).encode(text)

    async def encode_joint_text(self, text: str) -> TextEmbedding:
        return await (await self._clip()).encode_joint_text(text)

    async def decode_sound(self, data: bytes, cut: SoundCut | None, max_s: float | None = None) -> list[SoundWindow]:
        return await (await self._media()).decode_sound(data, cut, max_s)

    async def classify_sound(self, sound: Any, language: str | None) -> ClipScores:
        return await (await self._wav2vec2()).classify(Clip(sound, language))

    async def fuse(self, parts: FusionInput) -> tuple[FusionOutput, ModelCard]:
        return await (await self._fusion()).fuse(parts)

    async def check_encoders(self, cards: Mapping[str, ModelCard]) -> None:
        """Raises WrongWeights where the fusion head was trained on other encoders."""
        (await self._fusion()).check_encoders(cards)

    async def status(self) -> list[NodeStatus]:
        """Makes every node; one that cannot be made is sick and says why."""
        makers: dict[str, Callable[[], Awaitable[HasStatus]]] = {
            "media": self._media,
            "clip": self._clip,
            "vggish": self._vggish,
            "xlmr": self._xlmr,
            "fusion": self._fusion,
        }
        if self._config.streams.enabled:
            makers["wav2vec2"] = self._wav2vec2
        if self._config.gate.served:
            makers["review_gate"] = self._review_gate
        statuses = []
        for name, make in makers.items():
            try:
                statuses.append(await (await make()).status())
            except ParakhError as error:
                statuses.append(NodeStatus(name, "sick", str(error)))
        return statuses

    async def close(self) -> None:
        if "media" in self._made:
            self._made["media"].close()

    async def _media(self) -> MediaNode:
        c = self._config
        return await self._once("media", lambda: MediaNode(c.media.settings, frame_spec(c.clip.encoder)))

    async def _clip(self) -> VisualNode:
        c = self._config.clip
        return await self._once("clip", lambda: VisualNode(c.encoder, c.node))

    async def _vggish(self) -> EncoderNode[SoundItem, Embeddings]:
        c = self._config.vggish
        return await self._once("vggish", lambda: EncoderNode("vggish", make_sound_encoder(c.encoder), c.node))

    async def _xlmr(self) -> EncoderNode[str, TextEmbedding]:
        c = self._config.xlmr
        return await self._once("xlmr", lambda: EncoderNode("xlmr", make_text_encoder(c.encoder), c.node))

    async def _wav2vec2(self) -> Wav2Vec2Node:
        c = self._config.streams
        if not c.enabled:
            raise StreamsOff
        return await self._once("wav2vec2", lambda: Wav2Vec2Node(c.encoder, c.node))

    async def _review_gate(self) -> GateNode:
        return await self._once("review_gate", lambda: GateNode(self._config.gate.node))

    async def _fusion(self) -> FusionNode:
        return await self._once("fusion", lambda: FusionNode(self._config.fusion.head))

    async def _once(self, name: str, make: Callable[[], Node]) -> Node:
        async with self._lock:
            if name not in self._made:
                self._made[name] = await asyncio.to_thread(make)
            node: Node = self._made[name]
            return node
