"""What the pipeline needs of the graph's nodes: one small protocol, filled by Ray handles (`graph.py`),
by plain objects in this process (`local_nodes.py`), or by fakes in tests.

Frames and sound are opaque here: an array in-process, a reference into shared memory on Ray, so that
they never pass through the ingress.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.fusion.head import FusionInput, FusionOutput
from deployments.media.windows import SoundCut
from deployments.runtime.values import (
    DecodedMedia,
    Embeddings,
    Modality,
    ModelCard,
    NodeStatus,
    SoundBlock,
    SoundWindow,
    TextEmbedding,
)
from deployments.wav2vec2.values import ClipScores
from serve_app.posts import MediaSource


@dataclass(frozen=True)
class Decoded:
    """What the media node made of one file, its arrays left where they are."""

    media: DecodedMedia  # `frames` and `sound` are None here
    frames: Any | None  # what `encode_frames` takes; None where there are none
    sound: Any | None  # what `encode_sound` takes


class NodeHandles(Protocol):
    """Every call may raise ParakhError subclasses; NodeUnavailable means that asking once more may help."""

    async def decode(self, media: MediaSource) -> Decoded: ...

    async def fetch(self, url: str) -> bytes: ...

    async def encode_frames(self, frames: Any) -> Embeddings: ...

    async def encode_sound(self, sound: Any, blocks: tuple[SoundBlock, ...]) -> Embeddings: ...

    async def encode_text(self, text: str) -> TextEmbedding: ...

    async def encode_joint_text(self, text: str) -> TextEmbedding:
        """Text in the visual encoder's joint space. Raises NotFound where the profile has none."""
        ...

    async def decode_sound(self, data: bytes, cut: SoundCut | None, max_s: float | None = None) -> list[SoundWindow]:
        """A livestream's sound, whole (InvalidInput beyond `max_s`) or cut. `classify_sound` takes their `sound`."""
        ...

    async def classify_sound(self, sound: Any, language: str | None) -> ClipScores:
        """Raises NotFound where streams are switched off."""
        ...

    async def fuse(self, parts: FusionInput) -> tuple[FusionOutput, ModelCard]: ...

    async def check_encoders(self, cards: Mapping[str, ModelCard]) -> None:
        """Modality -> card of its encoder. Raises WrongWeights where the fusion head was trained on another."""
        ...

    async def status(self) -> list[NodeStatus]: ...


ENCODERS = {Modality.VISUAL: "clip", Modality.AUDIO: "vggish", Modality.TEXT: "xlmr"}
"""Which node encodes which modality."""


def encoder_cards(statuses: Iterable[NodeStatus]) -> dict[str, ModelCard]:
    """Modality -> card, of the encoders that told one."""
    models = {status.node: status.model for status in statuses}
    cards = {modality.value: models.get(node) for modality, node in ENCODERS.items()}
    return {modality: card for modality, card in cards.items() if card is not None}
