"""Embeddings that can be told apart: each category has a direction of its own in each modality, plus noise.

For tests, and for trying `parakh train-fusion` without an encoder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.fusion.features import MODALITIES
from deployments.policy.policy import CATEGORIES
from deployments.runtime.values import Modality

DIMENSIONS = {Modality.VISUAL: 48, Modality.AUDIO: 32, Modality.TEXT: 32}


def direction(modality: Modality, category: str) -> NDArray[np.float32]:
    """The category's own unit vector in a modality's space."""
    seed = 100 * MODALITIES.index(modality) + CATEGORIES.index(category)
    vector = np.random.default_rng(seed).standard_normal(DIMENSIONS[modality])
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def vector(modality: Modality, category: str, rng: np.random.Generator, noise: float = 0.08) -> NDArray[np.float32]:
    spread = noise * rng.standard_normal(DIMENSIONS[modality])
    return (3.0 * (direction(modality, category) + spread)).astype(np.float32)  # encoders do not normalise


def row(number: int, rng: np.random.Generator, noise: float = 0.08) -> dict[str, Any]:
    """One post: the label shows in one to all of its modalities, the others are safe."""
    label = CATEGORIES[number % len(CATEGORIES)]
    has, shows = rng.random(3) < 0.7, rng.random(3) < 0.6
    first = int(rng.integers(3))
    has[first] = shows[first] = True
    shown = [label if shows[i] else "safe" for i in range(3)]
    vectors = {m.value: vector(m, shown[i], rng, noise).tolist() if has[i] else None for i, m in enumerate(MODALITIES)}
    carriers = [m.value for i, m in enumerate(MODALITIES) if has[i] and shown[i] != "safe"]
    return {"post_id": f"p{number}", "author_id": f"a{number // 2}", "label": label, "carriers": carriers, **vectors}


def write_table(path: Path, n: int = 1400, seed: int = 0, noise: float = 0.08) -> Path:
    rng = np.random.default_rng(seed)
    path.write_text("".join(json.dumps(row(i, rng, noise)) + "\n" for i in range(n)))
    return path
