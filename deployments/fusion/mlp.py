"""The head's arithmetic in numpy: input -> hidden (GELU) -> hidden (GELU) -> 7 logits.

The first layer is kept in one block per modality. Its output is a sum over the present modalities, so a missing one
is simply not added, and leaving one out costs a subtraction:
    h = b + sum over present m of (W_m x_m + w_presence[m])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.fusion.features import MODALITIES, Floats
from deployments.runtime.values import Modality


def gelu(x: Floats) -> Floats:
    """The tanh form of GELU (Hendrycks and Gimpel 2016, section 2), as torch's `approximate="tanh"`."""
    inner = np.float32(np.sqrt(2.0 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.asarray(np.float32(0.5) * x * (np.float32(1.0) + np.tanh(inner)), dtype=np.float32)


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Over the last axis, in the precision it is given."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def add(parts: Iterable[Floats]) -> Floats:
    """The sum of the modalities' parts of the first layer, each (n, hidden)."""
    return np.asarray(np.sum(list(parts), axis=0), dtype=np.float32)


def layer_shapes(
    dimensions: Mapping[Modality, int], hidden: tuple[int, int], outputs: int
) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a head; `layers.0` reads [visual, audio, text, presence(3)]."""
    width = sum(dimensions[m] for m in MODALITIES) + len(MODALITIES)
    sizes = [width, *hidden, outputs]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (before, after) in enumerate(pairwise(sizes)):
        shapes[f"layers.{layer}.weight"] = (after, before)
        shapes[f"layers.{layer}.bias"] = (after,)
    return shapes


@dataclass(frozen=True)
class Mlp:
    """Weights by name (float32, torch's (out, in) layout) and the widths of the input's blocks."""

    tensors: Mapping[str, Floats]
    dimensions: Mapping[Modality, int]

    def project(self, modality: Modality, vectors: Floats) -> Floats:
        """Unit vectors (n, dimension) of a present modality -> its part of the first layer (n, hidden)."""
        start = sum(self.dimensions[m] for m in MODALITIES[: MODALITIES.index(modality)])
        weight = self.tensors["layers.0.weight"]
        block = weight[:, start : start + self.dimensions[modality]]
        presence = weight[:, sum(self.dimensions.values()) + MODALITIES.index(modality)]
        result: Floats = vectors @ block.T + presence
        return result

    def finish(self, parts: Floats) -> Floats:
        """Sum of the present modalities' parts (n, hidden) -> logits (n, 7)."""
        t = self.tensors
        hidden = gelu(parts + t["layers.0.bias"])
        hidden = gelu(hidden @ t["layers.1.weight"].T + t["layers.1.bias"])
        result: Floats = hidden @ t["layers.2.weight"].T + t["layers.2.bias"]
        return result

    def logits(self, vectors: Mapping[Modality, Floats]) -> Floats:
        """Unit vectors per present modality, each (n, dimension) -> logits (n, 7)."""
        parts = [self.project(m, vectors[m]) for m in MODALITIES if m in vectors]
        return self.finish(add(parts))
