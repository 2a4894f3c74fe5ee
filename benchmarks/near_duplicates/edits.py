"""What people do to pictures before they upload them again. An edit takes an RGB picture and gives one."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

Edit = Callable[[Image.Image], Image.Image]


def cropped(share: float) -> Edit:
    """`share` of width and height goes, half of it on each side."""

    def edit(picture: Image.Image) -> Image.Image:
        x, y = round(picture.width * share / 2), round(picture.height * share / 2)
        return picture.crop((x, y, picture.width - x, picture.height - y))

    return edit


def resized(scale: float) -> Edit:
    return lambda picture: picture.resize(
        (max(16, round(picture.width * scale)), max(16, round(picture.height * scale)))
    )


def brighter(factor: float) -> Edit:
    return lambda picture: ImageEnhance.Brightness(picture).enhance(factor)


def rotated(degrees: float) -> Edit:
    """Turned about its middle; black shows in the corners."""
    return lambda picture: picture.rotate(degrees, Image.Resampling.BICUBIC)


def bordered(share: float) -> Edit:
    return lambda picture: ImageOps.expand(picture, round(min(picture.size) * share), "black")


def captioned(picture: Image.Image) -> Image.Image:
    """White letters on a dark band over the lowest sixth."""
    picture = picture.copy()
    draw, height = ImageDraw.Draw(picture), picture.height // 6
    draw.rectangle((0, picture.height - height, picture.width, picture.height), fill=(20, 20, 20))
    font = ImageFont.load_default(max(8, height // 2))
    draw.text((picture.width // 20, picture.height - 3 * height // 4), "when you see it...", "white", font)
    return picture


def unchanged(picture: Image.Image) -> Image.Image:
    return picture


@dataclass(frozen=True)
class Recipe:
    """How one copy is made."""

    edit: Edit = unchanged
    jpeg_quality: int = 85  # of a picture
    crf: int = 26  # of a video


RECIPES = {
    "re-encoded": Recipe(),
    "re-encoded poorly": Recipe(jpeg_quality=25, crf=38),
    "resized to half": Recipe(resized(0.5)),
    "brighter by 30 %": Recipe(brighter(1.3)),
    "cropped by 10 %": Recipe(cropped(0.10)),
    "cropped by 25 %": Recipe(cropped(0.25)),
    "black border of 8 %": Recipe(bordered(0.08)),
    "captioned": Recipe(captioned),
    "rotated by 3 degrees": Recipe(rotated(3)),
    "mirrored": Recipe(ImageOps.mirror),
}
QUICK = ("re-encoded poorly", "cropped by 10 %", "cropped by 25 %", "captioned", "rotated by 3 degrees", "mirrored")


def jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
