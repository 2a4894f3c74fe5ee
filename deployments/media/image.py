"""Pictures and animations: bytes in, frames out, through Pillow.

Order: open (listed formats only) -> pixel cap, before anything is decoded -> full decode -> EXIF orientation ->
alpha laid on white -> signature and one resize. An animation is walked once and thinned while it is walked, because
its length is only known at its end.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from deployments.media.frame import Frame, look
from deployments.media.parts import Budget, Parts, Visual
from deployments.media.settings import MediaSettings
from deployments.runtime.errors import TooLarge, UndecodableMedia, UnsupportedMedia
from deployments.runtime.values import ContentType, FrameSpec, ModalityStatus, Status

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,  # Pillow's own for a broken PNG
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    Warning,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,  # of a later frame
)
_DEFAULT_DELAY_MS = 100  # what browsers show for a delay below 20 ms
_FINEST_S = 0.1  # frames of an animation nearer than this are not told apart
_truncated_allowed = threading.Lock()  # ImageFile.LOAD_TRUNCATED_IMAGES is a global


def decode_image(data: bytes, settings: MediaSettings, spec: FrameSpec) -> Parts:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = _open(data, settings)
        if _moves(picture):
            return _animation(picture, settings, spec)
        return _still(picture, data, settings, spec)


def _open(data: bytes, settings: MediaSettings) -> ImageFile.ImageFile:
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(_too_many_pixels(settings)) from error
    except UnidentifiedImageError as error:
        raise UndecodableMedia("The picture's header does not decode.") from error
    except _DECODE_ERRORS as error:
        raise UndecodableMedia("The picture does not decode.") from error
    if picture.width * picture.height > settings.max_pixels:
        raise TooLarge(_too_many_pixels(settings))
    if picture.format == "MPO":
        picture.seek(0)
    elif picture.format not in FORMATS:
        raise UnsupportedMedia()
    return picture


def _moves(picture: ImageFile.ImageFile) -> bool:
    try:
        return bool(getattr(picture, "is_animated", False)) and picture.format != "MPO"
    except _DECODE_ERRORS:  # a second frame is there, and broken
        return True


def _too_many_pixels(settings: MediaSettings) -> str:
    return f"The picture has more than {settings.max_pixels / 1e6:g} million pixels."


def _still(picture: ImageFile.ImageFile, data: bytes, settings: MediaSettings, spec: FrameSpec) -> Parts:
    name = "jpeg" if picture.format == "MPO" else str(picture.format).lower()
    status = ModalityStatus(Status.OK, frames=1)
    try:
        picture.load()
    except _DECODE_ERRORS:
        picture = _load_what_is_there(data, settings)
        status = ModalityStatus(Status.PARTIAL, "The picture breaks off; only its first part was seen.", frames=1)
    try:
        frame = look(upright_rgb(picture), spec, settings)
    except _DECODE_ERRORS as error:
        raise UndecodableMedia("The picture does not decode.") from error
    return Parts(ContentType.IMAGE, name, None, Visual.of(status, [frame], [0.0], settings))


def _load_what_is_there(data: bytes, settings: MediaSettings) -> ImageFile.ImageFile:
    """A browser shows the first part of a broken picture, so it is judged; one flat colour means nothing decoded."""
    picture = _open(data, settings)
    try:
        with _truncation_allowed():
            picture.load()
        extrema = picture.convert("RGB").getextrema()
    except _DECODE_ERRORS as error:
        raise UndecodableMedia("The picture does not decode.") from error
    if all(low == high for low, high in extrema):  # type: ignore[misc]
        raise UndecodableMedia("The picture breaks off before anything of it decodes.")
    return picture


@contextlib.contextmanager
def _truncation_allowed() -> Iterator[None]:
    with _truncated_allowed:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Turned as its EXIF says, alpha laid on white, 16-bit grey scaled (Pillow's own conversion would whiten it)."""
    with contextlib.suppress(*_DECODE_ERRORS):  # broken EXIF hides no picture: viewers show it unturned
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture).clip(0, 65_535) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _animation(picture: ImageFile.ImageFile, settings: MediaSettings, spec: FrameSpec) -> Parts:
    thinned = _Thinned(settings)
    budget, at_s, index, pixels, reason = Budget(settings), 0.0, 0, 0, None
    while True:
        try:
            picture.seek(index)
            wanted = thinned.wants(at_s)
            if picture.width * picture.height > settings.max_pixels:  # a frame may be larger than the first
                raise ValueError("too many pixels")
            picture.load()
            if wanted:
                thinned.add(at_s, look(upright_rgb(picture), spec, settings))
            at_s += _delay_s(picture)
        except EOFError:
            break
        except _DECODE_ERRORS:
            reason = f"The animation breaks off after {at_s:.1f} s."
            break
        index, pixels = index + 1, pixels + picture.width * picture.height
        if index >= settings.max_animation_frames or pixels >= settings.max_animation_pixels:
            reason = f"Only the first {index} frames of the animation were looked at."
            break
        if budget.spent:
            reason = f"Decoding took too long and was stopped after {at_s:.1f} s of the animation."
            break
    return _animation_parts(picture, thinned, at_s, reason, settings)


def _animation_parts(
    picture: ImageFile.ImageFile, thinned: _Thinned, duration_s: float, reason: str | None, settings: MediaSettings
) -> Parts:
    times, frames = thinned.result(duration_s)
    if not frames:
        raise UndecodableMedia("No frame of the animation decodes.")
    status = ModalityStatus(Status.PARTIAL if reason else Status.OK, reason, frames=len(frames))
    visual = Visual.of(status, frames, times, settings)
    return Parts(ContentType.GIF, str(picture.format).lower(), duration_s, visual)


def _delay_s(picture: Image.Image) -> float:
    delay = picture.info.get("duration", 0)
    milliseconds = float(delay) if isinstance(delay, int | float) else 0.0
    return (milliseconds if milliseconds >= 20 else _DEFAULT_DELAY_MS) / 1000.0


class _Thinned:
    """Frames of an animation of unknown length: whenever too many are kept, every other one goes."""

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        self._keep = 2 * max(settings.max_frames, settings.min_animation_frames)
        self._step_s = _FINEST_S
        self._times: list[float] = []
        self._frames: list[Frame] = []

    def wants(self, at_s: float) -> bool:
        return not self._times or at_s - self._times[-1] >= self._step_s - 1e-6

    def add(self, at_s: float, frame: Frame) -> None:
        self._times.append(at_s)
        self._frames.append(frame)
        if len(self._times) > self._keep:
            self._times, self._frames = self._times[::2], self._frames[::2]
            self._step_s *= 2

    def result(self, duration_s: float) -> tuple[list[float], list[Frame]]:
        """One frame per interval, but at least `min_animation_frames` where there are as many, and at most the cap."""
        wanted = max(self._settings.min_animation_frames, int(duration_s / self._settings.frame_interval_s))
        wanted = min(wanted, self._settings.max_frames, len(self._times))
        if wanted == 0:
            return [], []
        chosen = np.unique(np.linspace(0, len(self._times) - 1, wanted).round().astype(int))
        return [self._times[i] for i in chosen], [self._frames[i] for i in chosen]
