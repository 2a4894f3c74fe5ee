"""Records tests/media/pdq_vectors.json with the reference implementation of PDQ.

`pip install pdqhash==0.2.8 scikit-image pillow` (needs a C++ compiler), then `python -m tests.media.record_pdq`.
It wraps the C++ code of ThreatExchange; only its results are kept here.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import numpy as np
from PIL import Image

VECTORS = Path(__file__).with_name("pdq_vectors.json")
PHOTOS = (
    *("astronaut", "cell", "chelsea", "clock_motion", "coffee", "coins", "color", "microaneurysms", "moon"),
    *("motorcycle_left", "motorcycle_right", "page", "phantom"),
)
PHOTOS_JPEG = ("hubble_deep_field", "retina", "rocket")
GENERATED = ((40, 30), (64, 64), (65, 63), (127, 129), (128, 256), (640, 360), (1280, 721), (2001, 1500))


def pictures() -> dict[str, Image.Image]:
    """Name -> RGB picture: photos of scikit-image, and generated ones of many sizes."""
    found = {}
    package = importlib.metadata.distribution("scikit-image")
    for name in [*(f"{name}.png" for name in PHOTOS), *(f"{name}.jpg" for name in PHOTOS_JPEG)]:
        path = str(package.locate_file(f"skimage/data/{name}"))
        found[name] = Image.open(path).convert("RGB")
    for width, height in GENERATED:
        found[f"generated {width}x{height}"] = generated(width, height)
    return found


def generated(width: int, height: int) -> Image.Image:
    """Patches of colour, the same every time for one width."""
    patches = np.random.default_rng(width).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BILINEAR)


def main() -> None:
    import pdqhash  # type: ignore[import-not-found,unused-ignore]

    recorded = {}
    for name, picture in pictures().items():
        bits, quality = pdqhash.compute(np.asarray(picture))
        recorded[name] = {"hex": np.packbits(bits).tobytes().hex(), "quality": int(quality)}
    VECTORS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
