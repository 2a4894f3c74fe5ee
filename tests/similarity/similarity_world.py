"""A small world of content for tests: signatures and vectors made by hand, in exact indexes in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.content import Content, ContentVector, EncoderId, FrameSignatures
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.backends import MemoryBackend
from deployments.similarity.service import SimilarityService
from deployments.similarity.values import FrameVectors

CLIP = EncoderId("clip", "1")
DIMENSION = 32


def service(root: Path, backend: MemoryBackend | None = None, **settings: Any) -> SimilarityService:
    given = {"directory": root / "root", "lock_wait_s": 0, **settings}
    return SimilarityService(SimilaritySettings.model_validate(given), backend=backend or MemoryBackend())


def hashes(*seeds: int, flipped: int = 0) -> NDArray[np.uint8]:
    """(n, 32): one signature for each seed, about 128 bits apart; `flipped` bits of each inverted."""
    bits = np.stack([np.random.default_rng(seed).integers(0, 2, 256, dtype=np.uint8) for seed in seeds])
    bits[:, :flipped] ^= 1
    return np.packbits(bits, axis=1)


def signatures(*seeds: int, flipped: int = 0, quality: int = 90, step_s: float = 1.0) -> FrameSignatures:
    n = len(seeds)
    times_s = (np.arange(n) * step_s).astype(np.float32)
    return FrameSignatures(hashes(*seeds, flipped=flipped), np.full(n, quality, np.uint8), times_s)


def image(id: str, seed: int, *, flipped: int = 0, language: str = "hi", **given: Any) -> Content:
    return Content(
        id, "image", language, 100.0, signatures=signatures(seed, flipped=flipped, **_quality(given)), **given
    )


def video(id: str, *seeds: int, flipped: int = 0, language: str = "hi", **given: Any) -> Content:
    return Content(
        id,
        "video",
        language,
        100.0,
        duration_s=float(len(seeds)),
        signatures=signatures(*seeds, flipped=flipped, **_quality(given)),
        **given,
    )


def direction(seed: int, near: float = 1.0) -> NDArray[np.float32]:
    """Of unit length; with `near` c the cosine to `direction(seed)` is c."""
    random = np.random.default_rng(seed)
    one, other = random.standard_normal((2, DIMENSION))
    one /= np.linalg.norm(one)
    other -= (other @ one) * one
    other /= np.linalg.norm(other)
    mixed: NDArray[np.float32] = (near * one + np.sqrt(1 - near**2) * other).astype(np.float32)
    return mixed


def seen(id: str, seed: int, near: float = 1.0, *, encoder: EncoderId = CLIP, **given: Any) -> Content:
    """An image by its vector alone."""
    given = {"content_type": "image", "language": "hi", **given}
    vector = ContentVector(encoder, direction(seed, near))
    return Content(id, vectors={"visual": vector}, **given)


def film(id: str, *seeds: int, encoder: EncoderId = CLIP, modality: str = "visual", **given: Any) -> Content:
    """A video by its frames' vectors."""
    rows = np.stack([direction(seed) for seed in seeds])
    frames = FrameVectors(rows.astype(np.float16), np.arange(len(seeds), dtype=np.float32))
    vector = ContentVector(encoder, rows.mean(axis=0), frames)
    given = {"content_type": "video", "language": "hi", "duration_s": float(len(seeds)), **given}
    return Content(id, vectors={modality: vector}, **given)


def _quality(given: dict[str, Any]) -> dict[str, int]:
    return {"quality": given.pop("quality")} if "quality" in given else {}
