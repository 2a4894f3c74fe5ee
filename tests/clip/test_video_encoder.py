"""A video encoder can take CLIP's place: one vector for each clip of several frames, with times of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from deployments.clip.frames import Frames, invalid_reason
from deployments.clip.node import VisualNode
from deployments.clip.registry import ENCODERS, Entry, VisualEncoder
from deployments.clip.settings import FAKE_FRAMES, ClipSettings
from deployments.fusion.features import FusionInput
from deployments.fusion.head import random_head
from deployments.runtime.errors import NotFound
from deployments.runtime.node import NodeSettings
from deployments.runtime.values import Embeddings, Modality, ModelCard, TextEmbedding

CLIP_FRAMES, DIMENSION = 16, 6


class FakeVideoEncoder:
    """Mean and deviation of the colours of each 16 frames."""

    frame_spec = FAKE_FRAMES
    card = ModelCard("fake-video", "1", "random", DIMENSION)

    def load(self) -> None:
        """Nothing to read."""

    def example(self) -> Frames:
        return np.full((1, FAKE_FRAMES.crop, FAKE_FRAMES.crop, 3), 128, np.uint8)

    def weight(self, item: Frames) -> int:
        return max(1, len(item))

    def bucket(self, item: Frames) -> None:
        return None

    def embed_text(self, texts: Sequence[str]) -> Sequence[TextEmbedding | Exception]:
        raise NotFound("No joint space.")

    def encode(self, items: Sequence[Frames]) -> Sequence[Embeddings | Exception]:
        return [invalid_reason(item, FAKE_FRAMES.crop) or self._encode(item) for item in items]

    def _encode(self, frames: Frames) -> Embeddings:
        starts = np.arange(0, len(frames), CLIP_FRAMES)
        clips = [frames[start : start + CLIP_FRAMES].reshape(-1, 3) / 255 for start in starts]
        vectors = np.stack([np.concatenate([clip.mean(axis=0), clip.std(axis=0)]) for clip in clips])
        return Embeddings(vectors.astype(np.float32), times_s=starts.astype(np.float32))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> VisualNode:
    encoder: VisualEncoder = FakeVideoEncoder()
    monkeypatch.setitem(ENCODERS, "fake", Entry(lambda _: FAKE_FRAMES, lambda _: encoder))
    return VisualNode(ClipSettings(model="fake"), NodeSettings())


@pytest.mark.parametrize(("frames", "times_s"), [(1, [0.0]), (16, [0.0]), (40, [0.0, 16.0, 32.0])])
async def test_one_vector_a_clip_goes_through_node_and_fusion(
    node: VisualNode, frames: int, times_s: list[float]
) -> None:
    shape = (frames, FAKE_FRAMES.crop, FAKE_FRAMES.crop, 3)
    video = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    clips = await node.encode(video)
    assert clips.times_s is not None
    assert clips.times_s.tolist() == times_s
    assert clips.vectors.shape == (len(times_s), DIMENSION)
    head = random_head({Modality.VISUAL: DIMENSION, Modality.AUDIO: 8, Modality.TEXT: 8}, seed=0, hidden=(16, 8))
    output = head.predict(FusionInput(frames=clips))
    assert sum(output.category_scores.values()) == pytest.approx(1.0)
    assert all(segment.start_s in times_s for segment in output.segments)
