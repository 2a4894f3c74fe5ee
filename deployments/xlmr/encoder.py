"""Texts in, one vector each: the mean of the last hidden states over the text's own tokens.

A batch is tokenised once, grouped by length and run group by group. On a CPU a group holds texts of exactly one
length, so nothing is padded and no mask is needed (padding a batch to its longest text costs more than not batching
at all). On a GPU lengths are rounded up, padded positions are masked in attention and left out of the mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.device import prepare_torch
from deployments.runtime.errors import InvalidInput, ModelError, WrongWeights
from deployments.runtime.values import ModelCard, TextEmbedding
from deployments.xlmr.checkpoint import OpenedModel, open_checkpoint
from deployments.xlmr.settings import XlmrSettings
from deployments.xlmr.tokenisation import TextTokenizer, Tokens

EXAMPLE = "यह एक साधारण वाक्य है। This is a plain sentence."


class TextEncoder:
    """Encoder[str, TextEmbedding] over any bidirectional Hugging Face encoder."""

    def __init__(self, settings: XlmrSettings) -> None:
        self._settings = settings
        self._opened: OpenedModel | None = None
        self._multiple = 1 if settings.device == "cpu" else settings.pad_to_multiple_of

    @property
    def card(self) -> ModelCard:
        return self._ready().card

    def load(self) -> None:
        settings = self._settings
        self._device, dtype = prepare_torch(settings)
        self._opened = _open(settings, dtype)
        self._model = self._opened.model.to(self._device)
        if isinstance(self.encode([EXAMPLE])[0], Exception):
            source, self._opened = self._opened.source, None
            raise WrongWeights(f"{source}: the model gives no finite vector for its example")

    def example(self) -> str:
        return EXAMPLE

    def weight(self, item: str) -> int:
        """Estimated tokens (characters / 3): the text is tokenised once, later, off the event loop."""
        return self._ready().tokenizer.estimate(item)

    def bucket(self, item: str) -> Hashable:
        """None on a CPU: `encode` groups by exact length itself. On a GPU the power of two above the estimate."""
        return None if self._settings.device == "cpu" else self.weight(item).bit_length()

    def encode(self, items: Sequence[str]) -> Sequence[TextEmbedding | Exception]:
        tokenizer = self._ready().tokenizer
        tokens = [_tokenise(tokenizer, item) for item in items]
        results: dict[int, TextEmbedding | Exception] = {
            index: found for index, found in enumerate(tokens) if isinstance(found, Exception)
        }
        valid = {index: found for index, found in enumerate(tokens) if isinstance(found, Tokens)}
        for indices, width in self._passes(valid):
            vectors = self._forward([valid[index].ids for index in indices], width)
            for index, vector in zip(indices, vectors, strict=True):
                results[index] = _embedding(vector, valid[index])
        return [results[index] for index in range(len(items))]

    def _ready(self) -> OpenedModel:
        if self._opened is None:
            raise ModelError("The text encoder is not loaded.")
        return self._opened

    def _passes(self, tokens: dict[int, Tokens]) -> Iterator[tuple[list[int], int]]:
        """Groups of item indices with the length they are run at, each within `max_batch_tokens`."""
        multiple = self._multiple
        limit = self._ready().tokenizer.limit
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for index, found in tokens.items():
            groups[min(limit, -(-len(found.ids) // multiple) * multiple)].append(index)
        for width, indices in sorted(groups.items()):
            size = max(1, self._settings.max_batch_tokens // width)
            for start in range(0, len(indices), size):
                yield indices[start : start + size], width

    def _forward(self, rows: list[list[int]], width: int) -> NDArray[np.float32]:
        """(batch, dimension) masked means of `rows`, padded to `width` where they are shorter."""
        import torch

        padded = [row + [self._ready().pad_id] * (width - len(row)) for row in rows]
        ids = torch.tensor(padded, device=self._device)  # (batch, width) int64
        lengths = [len(row) for row in rows]
        with torch.inference_mode():
            if min(lengths) == width:
                hidden = self._model(input_ids=ids).last_hidden_state.float()  # (batch, width, dimension)
                return np.asarray(hidden.mean(dim=1).cpu().numpy(), np.float32)
            count = torch.tensor(lengths, device=self._device)[:, None]  # (batch, 1)
            mask = torch.arange(width, device=self._device) < count  # (batch, width)
            hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
            means = (hidden * mask[:, :, None]).sum(dim=1) / count
            return np.asarray(means.cpu().numpy(), np.float32)


def _open(settings: XlmrSettings, dtype: Any) -> OpenedModel:
    if settings.weights == "random":
        from deployments.xlmr.random_weights import open_random

        return open_random(settings, dtype)
    return open_checkpoint(settings, dtype)


def _tokenise(tokenizer: TextTokenizer, item: str) -> Tokens | InvalidInput:
    try:
        return tokenizer(item)
    except InvalidInput as error:
        return error


def _embedding(vector: NDArray[np.float32], tokens: Tokens) -> TextEmbedding | ModelError:
    if not np.isfinite(vector).all():
        return ModelError("The text encoder gave no finite vector.")
    return TextEmbedding(vector, tokens=len(tokens.ids), truncated=tokens.truncated)
