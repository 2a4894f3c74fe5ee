"""From one post's embeddings to the vectors the head reads.

Per modality: mean over frames or sound examples, then L2 normalisation (the CLIP contract: the mean is taken of the
raw vectors). The head's input is [visual, audio, text, presence(3)]; a missing modality is zeros with presence 0, so
that it differs from a vector that happens to be zero. Zero rows count as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput, NodeUnavailable
from deployments.runtime.values import Embeddings, Modality, TextEmbedding

MODALITIES: tuple[Modality, ...] = (Modality.VISUAL, Modality.AUDIO, Modality.TEXT)
"""The order of the blocks in the head's input, and of the presence bits."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FusionInput:
    """What one post has. `frames` and `sound` carry times_s; without them frames count as 1 s, sound as 0.96 s."""

    frames: Embeddings | None = None
    sound: Embeddings | None = None
    text: TextEmbedding | None = None


def unit(vectors: NDArray[Any]) -> Floats:
    """L2-normalise the last axis, in float64; a zero vector stays zero. Any shape in, float32 out."""
    wide = np.asarray(vectors, dtype=np.float64)
    largest = np.max(np.abs(wide), axis=-1, keepdims=True, initial=0.0)
    wide = wide / np.where(largest > 0, largest, 1.0)  # so that squares neither overflow nor vanish
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    return (wide / np.where(length > 0, length, 1.0)).astype(np.float32)


def pooled(vectors: NDArray[Any]) -> Floats:
    """(n, dimension) raw vectors -> (dimension,): mean, then L2."""
    return unit(np.asarray(vectors, dtype=np.float64).mean(axis=0))


def checked(modality: Modality, vectors: NDArray[Any], wanted: int) -> Floats:
    """(n, wanted) finite float32.

    Raises InvalidInput that names the modality, what came and what was wanted; NodeUnavailable for a number that is not
    finite, because an encoder made it and no client can mend it.
    """
    if vectors.ndim != 2 or vectors.shape[1] != wanted:
        got = vectors.shape[1] if vectors.ndim == 2 else f"shape {vectors.shape}"
        raise InvalidInput(f"The {modality} embedding has dimension {got}; the fusion head wants {wanted}.")
    values = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(values).all():
        raise NodeUnavailable(f"The {modality} embedding holds a number that is not finite.")
    return values


def present_vectors(post: FusionInput, dimensions: Mapping[Modality, int]) -> dict[Modality, Floats]:
    """The post's raw vectors per present modality, each (n, dimension), n >= 1. Raises what `checked` raises, and
    InvalidInput where there is none."""
    raw: dict[Modality, NDArray[Any] | None] = {
        Modality.VISUAL: None if post.frames is None else np.asarray(post.frames.vectors),
        Modality.AUDIO: None if post.sound is None else np.asarray(post.sound.vectors),
        Modality.TEXT: None if post.text is None else np.atleast_2d(np.asarray(post.text.vector)),
    }
    found = {}
    for modality, vectors in raw.items():
        if vectors is not None and len(vectors) > 0:
            found[modality] = checked(modality, vectors, dimensions[modality])
    if not found:
        raise InvalidInput("The post has no modality that could be embedded.")
    return found
