"""The contract between a model and the node that serves it.

A node owns one Encoder: it loads it, warms it up with the encoder's own example, and hands it batches.
An encoder is pure: no Ray, no event loop, no global state; it may be driven from any one thread at a time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

from deployments.runtime.values import ModelCard

Item = TypeVar("Item")
Result = TypeVar("Result", covariant=True)


class Encoder(Protocol[Item, Result]):
    @property
    def card(self) -> ModelCard:
        """Known after `load`."""
        ...

    def load(self) -> None:
        """Read the weights strictly. Raises MissingWeights or WrongWeights, never falls back to random ones."""
        ...

    def example(self) -> Item:
        """A small valid item: used to warm up and for the health probe's real forward pass."""
        ...

    def weight(self, item: Item) -> int:
        """The item's cost in the encoder's own unit (frames, examples, tokens); at least 1."""
        ...

    def bucket(self, item: Item) -> Hashable:
        """Items of unequal bucket never share a batch (None: all may)."""
        ...

    def encode(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        """One result or one error per item, in order. May raise: then the batcher halves the batch and tries again."""
        ...
