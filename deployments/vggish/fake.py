"""A sound encoder without weights: the mean and spread of each mel band. Same contract, same errors as VGGish.

It tells a low sound from a high one and is the same on every machine; it judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import Embeddings, ModelCard
from deployments.vggish.examples import SoundItem, count_examples, invalid_reason, log_mel_of
from deployments.vggish.log_mel import EXAMPLE_SAMPLES, MEL_BANDS


class FakeSoundEncoder:
    """128-d vectors: mean log-mel of each of the 64 bands over the example, then its standard deviation."""

    card = ModelCard(
        name="fake-sound",
        version="1",
        weights="random",
        dimension=2 * MEL_BANDS,
        note="Band energies: exercises the graph, judges nothing.",
    )

    def load(self) -> None:
        """Nothing to read."""

    def example(self) -> SoundItem:
        return SoundItem(np.zeros(EXAMPLE_SAMPLES, np.float32))

    def weight(self, item: SoundItem) -> int:
        return count_examples(item, "drop")

    def bucket(self, item: SoundItem) -> None:
        return None

    def encode(self, items: Sequence[SoundItem]) -> Sequence[Embeddings | InvalidInput]:
        return [invalid_reason(item) or _band_statistics(item) for item in items]


def _band_statistics(item: SoundItem) -> Embeddings:
    log_mel, times_s = log_mel_of(item, "drop")
    return Embeddings(vectors=np.concatenate([log_mel.mean(1), log_mel.std(1)], axis=1), times_s=times_s)
