"""A language's head: projector and classifier, and the layer weights where it has them; fp32 on the CPU.

transformers projects every frame and then takes the mean. Both are linear, so the mean of the hidden states, which is
all a trunk gives, says the same: a head costs two small matrix products a clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """Tensors of one checkpoint beside its trunk."""

    projector: tuple[Array, Array]  # (projection, hidden), (projection,)
    classifier: tuple[Array, Array]  # (labels, projection), (labels,)
    layer_weights: Array | None  # (layers + 1,), adding up to 1

    @property
    def bytes(self) -> int:
        return int(sum(array.nbytes for array in (*self.projector, *self.classifier)))

    def pooled(self, rows: Array) -> Array:
        """(rows, hidden) of a trunk -> (hidden,): the last hidden state's mean, or the weighted layers'."""
        pooled: Array = rows[0] if self.layer_weights is None else self.layer_weights @ rows[1:]
        return pooled

    def __call__(self, rows: Array) -> Array:
        """(rows, hidden) -> (labels,) logits. One clip at a time, so that company changes no bit of it."""
        weight, bias = self.projector
        projected = weight @ self.pooled(rows) + bias
        weight, bias = self.classifier
        logits: Array = weight @ projected + bias
        return logits


def make_head(state: Mapping[str, torch.Tensor]) -> Head:
    """From a checkpoint's whole state dict, checked before."""

    def array(name: str) -> Array:
        found: Array = state[name].float().numpy().copy()
        return found

    return Head(
        projector=(array("projector.weight"), array("projector.bias")),
        classifier=(array("classifier.weight"), array("classifier.bias")),
        layer_weights=softmax(array("layer_weights")) if "layer_weights" in state else None,
    )


def softmax(logits: Array) -> Array:
    """(n,) -> (n,) fp32, computed in fp64."""
    raised = np.exp(logits.astype(np.float64) - logits.max())
    probabilities: Array = (raised / raised.sum()).astype(np.float32)
    return probabilities
