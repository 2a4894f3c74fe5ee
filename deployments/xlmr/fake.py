"""A text encoder without weights: hashed character n-grams, the same in every process, so the graph runs anywhere."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence

import numpy as np

from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import ModelCard, TextEmbedding
from deployments.xlmr.tokenisation import has_visible, mend

_N_GRAM = 3
_SPECIAL_TOKENS = 2


class FakeTextEncoder:
    """Texts that share three-letter sequences are near each other; it knows nothing of meaning.

    A token is a white-space separated word. Obeys the prefix, the limit and the errors of the real encoder.
    """

    def __init__(self, dimension: int = 384, prefix: str = "", max_tokens: int = 512) -> None:
        self._dimension, self._prefix, self._max_tokens = dimension, prefix, max_tokens

    @property
    def card(self) -> ModelCard:
        note = "a fake: hashed character trigrams, no weights; for tests only"
        return ModelCard("fake-text", "1", "random", self._dimension, note=note)

    def load(self) -> None:
        """Nothing to read."""

    def example(self) -> str:
        return "a plain sentence"

    def weight(self, item: str) -> int:
        return min(self._max_tokens, len(item) // _N_GRAM + _SPECIAL_TOKENS)

    def bucket(self, item: str) -> Hashable:
        return None

    def encode(self, items: Sequence[str]) -> Sequence[TextEmbedding | Exception]:
        return [self._encode(item) for item in items]

    def _encode(self, item: str) -> TextEmbedding | InvalidInput:
        text = mend(item)
        if not has_visible(text):
            return InvalidInput("The text is empty.")
        words, room = text.split(), self._max_tokens - _SPECIAL_TOKENS
        text = f"{self._prefix} {' '.join(words[:room])}  ".casefold()
        grams = [zlib.crc32(text[at : at + _N_GRAM].encode()) for at in range(len(text) - _N_GRAM + 1)]
        vector = np.bincount(np.array(grams) % self._dimension, minlength=self._dimension).astype(np.float32)
        tokens = min(len(words), room) + _SPECIAL_TOKENS
        return TextEmbedding(vector, tokens=tokens, truncated=len(words) > room)
