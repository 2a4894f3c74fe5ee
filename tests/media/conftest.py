"""Media made in memory, each file in milliseconds: the smallest one that shows the behaviour."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deployments.media.decoder import MediaDecoder
from deployments.media.settings import MediaSettings
from deployments.runtime.values import FrameSpec

SPEC = FrameSpec()
Picture = Callable[[float], NDArray[np.uint8]]


def level(at_s: float) -> int:
    """Grey level that tells which second a frame is from."""
    return 20 + 12 * (int(at_s + 1e-6) % 18)


def grey_of(width: int, height: int) -> Picture:
    return lambda at_s: np.full((height, width, 3), level(at_s), np.uint8)


def sine(seconds: float, rate: int, hertz: float = 440.0) -> NDArray[np.float32]:
    return np.asarray(0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate), np.float32)


class Make:
    """Files of every kind. Grey frames whose level tells their second; a 440 Hz tone."""

    @staticmethod
    def movie(
        seconds: float = 3.0,
        *,
        container: str = "mp4",
        video: str | None = "libx264",
        sound: str | None = "aac",
        fps: int = 10,
        gop: int = 10,
        size: tuple[int, int] = (64, 48),
        picture: Picture | None = None,
        tone: NDArray[np.float32] | None = None,  # (samples,) or (channels, samples) at 44.1 kHz
        rate: int = 44_100,
        rotation: int = 0,
        options: dict[str, str] | None = None,
        video_options: dict[str, str] | None = None,
    ) -> bytes:
        # a temporary file where there are options: faststart reads back by name
        buffer = io.BytesIO() if options is None else tempfile.NamedTemporaryFile()  # noqa: SIM115
        target = buffer if isinstance(buffer, io.BytesIO) else buffer.name
        with av.open(target, "w", format=container, options=options or {}) as out:
            film = _add_video(out, video, fps, gop, size, rotation, video_options or {}) if video else None
            samples = np.atleast_2d(sine(seconds, rate) if tone is None else tone)
            layout = "mono" if len(samples) == 1 else "stereo"
            track = out.add_stream(sound, rate=rate, layout=layout) if sound else None
            draw = picture or grey_of(*size)
            if film is not None:
                for n in range(round(seconds * fps)):
                    frame = av.VideoFrame.from_ndarray(draw(n / fps), format="rgb24").reformat(format=film.pix_fmt)
                    frame.pts, frame.time_base = n, Fraction(1, fps)
                    out.mux(film.encode(frame))
                out.mux(film.encode(None))
            if isinstance(track, av.AudioStream):
                _encode_sound(out, track, samples, rate, layout)
        with buffer:
            buffer.seek(0)
            return buffer.read()

    @staticmethod
    def sound(container: str = "wav", codec: str = "pcm_s16le", seconds: float = 2.0, **more: object) -> bytes:
        return Make.movie(seconds, container=container, video=None, sound=codec, **more)  # type: ignore[arg-type]

    @staticmethod
    def image(kind: str = "PNG", size: tuple[int, int] = (320, 240), mode: str = "RGB", **save: object) -> bytes:
        width, height = size
        ramp = np.linspace(0, 255, width * height).reshape(height, width).astype(np.uint8)
        picture = Image.fromarray(ramp).convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, kind, **save)
        return buffer.getvalue()

    @staticmethod
    def animation(kind: str = "GIF", frames: int = 20, delay_ms: int = 100, size: tuple[int, int] = (40, 30)) -> bytes:
        pictures = [Image.new("RGB", size, (10 * n % 256, 30, 200 - n % 100)) for n in range(frames)]
        buffer = io.BytesIO()
        pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:], duration=delay_ms, loop=0)
        return buffer.getvalue()


def _add_video(
    out: av.container.OutputContainer,
    codec: str,
    fps: int,
    gop: int,
    size: tuple[int, int],
    rotation: int,
    options: dict[str, str],
) -> av.VideoStream:
    preset = {"preset": "ultrafast", "sc_threshold": "0"} if codec == "libx264" else {}
    film = out.add_stream(codec, rate=fps, options={**preset, **options})
    assert isinstance(film, av.VideoStream)
    film.width, film.height = size
    film.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    film.codec_context.gop_size = gop
    if rotation:
        film.set_display_rotation(rotation)
    return film


def _encode_sound(
    out: av.container.OutputContainer, track: av.AudioStream, samples: NDArray[np.float32], rate: int, layout: str
) -> None:
    for first in range(0, samples.shape[1], 1024):
        chunk = np.ascontiguousarray(samples[:, first : first + 1024])
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
        out.mux(track.encode(frame))
    out.mux(track.encode(None))


@pytest.fixture(scope="session")
def make() -> type[Make]:
    return Make


@pytest.fixture(scope="session")
def mp4() -> bytes:
    """Three seconds of H.264 and AAC, index at the end."""
    return Make.movie(3.0)


@pytest.fixture(scope="session")
def decoder() -> Iterator[MediaDecoder]:
    with MediaDecoder(MediaSettings(decode_workers=1), SPEC) as pool:
        yield pool
