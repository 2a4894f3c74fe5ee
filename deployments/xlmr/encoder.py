"""Texts in, one vector each: the mean of the last hidden states over the text's own tokens.

A batch is tokenised once; what has no visible character becomes an InvalidInput in its place; the rest runs packed
or bucketed (`forward.py`), never padded on a CPU: padding a batch to its longest text costs more than no batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.device import prepare_torch
from deployments.runtime.errors import InvalidInput, ModelError, NodeUnavailable, WrongWeights
from deployments.runtime.values import ModelCard, TextEmbedding
from deployments.xlmr.checkpoint import OpenedModel, open_checkpoint
from deployments.xlmr.forward import BucketedForward, Forward, PackedForward, can_pack
from deployments.xlmr.settings import XlmrSettings
from deployments.xlmr.tokenisation import TextTokenizer, Tokens

if TYPE_CHECKING:
    import torch

EXAMPLE = "यह एक साधारण वाक्य है। This is a plain sentence."


class TextEncoder:
    """Encoder[str, TextEmbedding] over any bidirectional Hugging Face encoder."""

    def __init__(self, settings: XlmrSettings) -> None:
        self._settings = settings
        self._opened: OpenedModel | None = None
        self._forward: Forward

    @property
    def card(self) -> ModelCard:
        return self._ready().card

    def load(self) -> None:
        settings = self._settings
        device, dtype = prepare_torch(settings)
        self._opened = _open(settings, dtype)
        self._forward = _make_forward(self._opened, settings, device)
        if isinstance(self.encode([EXAMPLE])[0], Exception):
            source, self._opened = self._opened.source, None
            raise WrongWeights(f"{source}: the model gives no finite vector for its example")

    def example(self) -> str:
        return EXAMPLE

    def weight(self, item: str) -> int:
        """Estimated tokens (characters / 3): the text is tokenised once, later, off the event loop."""
        return self._ready().tokenizer.estimate(item)

    def bucket(self, item: str) -> Hashable:
        """None on a CPU: `encode` packs or groups by length itself. On a GPU the power of two above the estimate."""
        return None if self._settings.device == "cpu" else self.weight(item).bit_length()

    def encode(self, items: Sequence[str]) -> Sequence[TextEmbedding | Exception]:
        tokenizer = self._ready().tokenizer
        tokens = [_tokenise(tokenizer, item) for item in items]
        rows = [found.ids for found in tokens if isinstance(found, Tokens)]
        vectors = iter(self._forward(rows) if rows else ())
        return [_embedding(next(vectors), found) if isinstance(found, Tokens) else found for found in tokens]

    def _ready(self) -> OpenedModel:
        if self._opened is None:
            raise ModelError("The text encoder is not loaded.")
        return self._opened


def _open(settings: XlmrSettings, dtype: Any) -> OpenedModel:
    if settings.weights != "checkpoint":
        from deployments.xlmr.random_weights import open_random

        return open_random(settings, dtype)
    return open_checkpoint(settings, dtype)


def _make_forward(opened: OpenedModel, settings: XlmrSettings, device: torch.device) -> Forward:
    model = opened.model.to(device)
    if can_pack(model):
        return PackedForward(model, opened.first_position, settings.max_batch_tokens)
    multiple = 1 if device.type == "cpu" else settings.pad_to_multiple_of
    return BucketedForward(model, opened.pad_id, opened.tokenizer.limit, settings.max_batch_tokens, multiple)


def _tokenise(tokenizer: TextTokenizer, item: str) -> Tokens | InvalidInput:
    try:
        return tokenizer(item)
    except InvalidInput as error:
        return error


def _embedding(vector: NDArray[np.float32], tokens: Tokens) -> TextEmbedding | NodeUnavailable:
    """NodeUnavailable costs a post its text; a ModelError, which belongs to loading, would end an in-process run."""
    if not np.isfinite(vector).all():
        return NodeUnavailable("The text encoder gave no finite vector.")
    return TextEmbedding(vector, tokens=len(tokens.ids), truncated=tokens.truncated)
