"""Is enhancing frames worth its cost? CPU time per frame, and how near a darkened or noisy copy's embedding comes.

The photos are scikit-image's and scikit-learn's, the encoder is the local profile's. A mode earns its place where
the copy lies nearer to its original than without enhancement, and `auto` where it leaves good frames alone as well.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import Row, against, median, options, report
from deployments.clip.registry import make_encoder
from deployments.clip.settings import ClipSettings
from deployments.media.enhance import enhance
from deployments.media.settings import Enhancement
from deployments.runtime.values import Embeddings

PHOTOS = {
    "scikit-image": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "brick.png"),
    "scikit-learn": ("china.jpg", "flower.jpg"),
}
FOLDERS = {"scikit-image": "skimage/data", "scikit-learn": "sklearn/datasets/images"}
MODES: tuple[Enhancement, ...] = ("clahe", "nlm", "auto")
Frames = NDArray[np.uint8]


def main() -> None:
    given = options(__doc__ or "")
    encoder = make_encoder(ClipSettings())
    encoder.load()
    photos = load_photos()

    def embed(frames: Frames) -> NDArray[np.float32]:
        result = encoder.encode([frames])[0]
        assert isinstance(result, Embeddings)
        return result.vectors

    originals = embed(photos)
    copies = {"darkened": darkened(photos), "noisy": noisy(photos), "untouched": photos}
    started = time.process_time()
    embed(photos)
    encoding_ms = (time.process_time() - started) / len(photos) * 1000
    rows = [cost(mode, photos, encoding_ms, repeats=3 if given.quick else 15) for mode in MODES]
    for name, frames in copies.items():
        plain = similarity(embed(frames), originals)
        rows += [
            against(f"cosine_{name}_{mode}", similarity(embed(enhance(frames, mode)), originals), "", plain)
            for mode in MODES
        ]
    report("enhance: cost per frame, and the embedding of a damaged copy against its original's", rows, given)


def cost(mode: Enhancement, frames: Frames, encoding_ms: float, repeats: int) -> Row:
    """CPU-ms a frame; the baseline is the encoder's own forward pass."""
    times = [_cpu_s(lambda: enhance(frames, mode)) for _ in range(repeats)]
    return against(
        f"cpu_ms_per_frame_{mode}", median(times) / len(frames) * 1000, "ms (baseline: encoder)", encoding_ms
    )


def _cpu_s(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def similarity(embeddings: NDArray[np.float32], originals: NDArray[np.float32]) -> float:
    """Mean cosine of each copy to its own original, after taking away the photos' common direction."""
    centre = originals.mean(axis=0)
    a, b = embeddings - centre, originals - centre
    return float(np.mean(np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))))


def load_photos(side: int = 224) -> Frames:
    """(n, side, side, 3) RGB."""
    frames = []
    for package, names in PHOTOS.items():
        distribution = importlib.metadata.distribution(package)
        for name in names:
            path = Path(str(distribution.locate_file(f"{FOLDERS[package]}/{name}")))
            image = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            frames.append(np.asarray(image))
    return np.stack(frames)


def darkened(frames: Frames) -> Frames:
    """A quarter of the light, as a clip filmed at night."""
    return (frames * 0.25).astype(np.uint8)


def noisy(frames: Frames) -> Frames:
    noise = np.random.default_rng(0).normal(0, 20, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
