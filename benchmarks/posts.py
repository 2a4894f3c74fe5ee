"""The fixed mix of posts that the graph benchmark moderates: made once with PyAV and Pillow, the same every run.

Of ten posts three are videos (30 s unless told otherwise, 640x360, H.264 with AAC, short caption), three are
pictures (JPEG 1280x720, two with a caption), three are texts in Hindi, Tamil and English, one is a sound
(as long, WAV).
"""

from __future__ import annotations

import io
import wave
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

VIDEO_S = 30
FPS = 24
SIDE = (640, 360)

CAPTIONS = (
    "आज मौसम बहुत सुहावना है और हम सब बाहर खेल रहे हैं, तुम भी आ जाओ।",
    "இன்று வானிலை மிகவும் நன்றாக இருக்கிறது, நாம் அனைவரும் வெளியே விளையாடுகிறோம்.",
    "A long walk by the river with friends, and then the best tea of the whole town.",
)


@dataclass(frozen=True)
class BenchmarkPost:
    content_type: str
    caption: str | None
    media: bytes | None


def mix(media_s: int = VIDEO_S) -> list[BenchmarkPost]:
    """The ten posts, their videos and sound `media_s` seconds long."""
    video, picture, sound = make_video(media_s), make_picture(), make_sound(media_s)
    return [
        BenchmarkPost("video", CAPTIONS[0], video),
        BenchmarkPost("text", CAPTIONS[0], None),
        BenchmarkPost("image", CAPTIONS[1], picture),
        BenchmarkPost("video", CAPTIONS[1], video),
        BenchmarkPost("text", CAPTIONS[1], None),
        BenchmarkPost("image", None, picture),
        BenchmarkPost("audio", None, sound),
        BenchmarkPost("video", CAPTIONS[2], video),
        BenchmarkPost("text", CAPTIONS[2], None),
        BenchmarkPost("image", CAPTIONS[2], picture),
    ]


def make_video(seconds: int = VIDEO_S) -> bytes:
    """A moving gradient with noise, and a chirp; about 1 Mbit/s, a key frame every 250 frames."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = *SIDE, "yuv420p"
        sound = container.add_stream("aac", rate=44_100, layout="mono")
        noise = rng.normal(0, 3, (8, SIDE[1], SIDE[0], 3)).astype(np.float32)
        x = np.linspace(0, 255, SIDE[0], dtype=np.float32)
        for i in range(seconds * FPS):
            picture = np.stack([np.tile(np.roll(x, 4 * i + 80 * c), (SIDE[1], 1)) for c in range(3)], axis=-1)
            noisy = np.clip(picture + noise[i % len(noise)], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode(None))
        samples = _chirp(44_100, seconds)[None]
        for start in range(0, samples.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 44_100, start, Fraction(1, 44_100)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return buffer.getvalue()


def make_picture() -> bytes:
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (18, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((1280, 720), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def make_sound(seconds: int = VIDEO_S) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((_chirp(16_000, seconds) * 20_000).astype(np.int16).tobytes())
    return buffer.getvalue()


def _chirp(rate_hz: int, seconds: int) -> NDArray[np.float32]:
    t = np.arange(seconds * rate_hz) / rate_hz
    return (0.5 * np.sin(2 * np.pi * (200 * t + 30 * t**2))).astype(np.float32)
