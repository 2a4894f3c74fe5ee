"""A visual encoder without weights: mean colours on a coarse grid. Same contract, same errors, no library to load.

It tells a red frame from a blue one and is the same on every machine; it judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.clip.frames import Columns, Frames, encode_together, to_embeddings
from deployments.clip.settings import FAKE_FRAMES
from deployments.runtime.errors import NotFound
from deployments.runtime.values import Embeddings, ModelCard, TextEmbedding

_GRID = 4
_SIDE = FAKE_FRAMES.crop


class FakeVisualEncoder:
    """48-d vectors: mean red, green and blue (0..1) of each cell of a 4 x 4 grid."""

    frame_spec = FAKE_FRAMES
    card = ModelCard(
        name="fake-visual",
        version="1",
        weights="random",
        dimension=3 * _GRID * _GRID,
        note="Mean colours: exercises the graph, judges nothing.",
    )

    def load(self) -> None:
        """Nothing to read."""

    def example(self) -> Frames:
        return np.full((1, _SIDE, _SIDE, 3), 128, np.uint8)

    def weight(self, item: Frames) -> int:
        return max(1, len(item))

    def bucket(self, item: Frames) -> None:
        return None

    def embed_text(self, texts: Sequence[str]) -> Sequence[TextEmbedding | Exception]:
        raise NotFound("This profile's visual encoder has no joint space with text.")

    def encode(self, items: Sequence[Frames]) -> Sequence[Embeddings | Exception]:
        return [to_embeddings(columns) for columns in encode_together(items, _SIDE, 64, _colour_grid)]


def _colour_grid(frames: Frames) -> Columns:
    cell = _SIDE // _GRID
    cells = frames.reshape(len(frames), _GRID, cell, _GRID, cell, 3)  # (n, row, y, column, x, colour)
    means = cells.mean(axis=(2, 4), dtype=np.float32) / np.float32(255)
    return {"vectors": means.reshape(len(frames), -1)}
