"""Pictures made by arithmetic, 224 x 224: each unsafe category is a pattern of its own, `safe` is everything soft.

They show nothing: a pattern's texture and colours stand in for what a real picture of the category would have in
common. `safe` is drawn from what patterns lack (clouds, landscapes, flat drawings, pages of text), so that an
ordinary photograph is nearer to it than to any pattern.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SIDE = 224
Picture = NDArray[np.uint8]
"""(224, 224, 3) RGB"""

_Field = NDArray[np.float64]
_Random = np.random.Generator


def picture(category: str, random: _Random) -> Picture:
    """One picture; angle, scale, colours, light and grain differ, the kind stays."""
    image = SAFE[int(random.integers(len(SAFE)))](random) if category == "safe" else PATTERNS[category](random)
    if category == "safe" and random.random() < 0.2:
        image = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)  # black and white
    image = image * random.uniform(0.75, 1.1) + random.uniform(-15, 15)
    image = image + random.standard_normal(image.shape) * random.uniform(1, 10)
    return np.clip(image, 0, 255).astype(np.uint8)


def _rotated(random: _Random, spread: float = np.pi) -> tuple[_Field, _Field]:
    """Pixel coordinates about a random centre, turned by up to `spread` radians."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    x, y = x - random.uniform(60, 164), y - random.uniform(60, 164)
    turn = random.uniform(-spread, spread)
    return x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)


def _two_colours(mask: NDArray[np.bool_], first: tuple[int, ...], second: tuple[int, ...], random: _Random) -> _Field:
    jitter = random.uniform(-25, 25, (2, 3))
    colours = np.array([first, second]) + jitter
    return np.asarray(np.where(mask[..., None], colours[0], colours[1]), dtype=np.float64)


def rings(random: _Random) -> _Field:
    x, y = _rotated(random)
    mask = np.hypot(x, y) % random.uniform(18, 40) < random.uniform(8, 12)
    return _two_colours(mask, (240, 150, 170), (30, 120, 120), random)


def checks(random: _Random) -> _Field:
    x, y = _rotated(random)
    cell = random.uniform(12, 30)
    return _two_colours((x // cell + y // cell) % 2 == 0, (220, 40, 200), (60, 210, 60), random)


def stripes(random: _Random) -> _Field:
    x, _ = _rotated(random)
    period = random.uniform(14, 36)
    return _two_colours(x % period < period / 2, (210, 20, 20), (15, 10, 10), random)


def dots(random: _Random) -> _Field:
    x, y = _rotated(random)
    cell = random.uniform(14, 26)
    away = np.hypot(x % cell - cell / 2, y % cell - cell / 2)
    return _two_colours(away < cell * random.uniform(0.25, 0.36), (250, 230, 20), (20, 30, 200), random)


def lattice(random: _Random) -> _Field:
    x, y = _rotated(random)
    cell, line = random.uniform(14, 26), random.uniform(2, 4)
    return _two_colours((x % cell < line) | (y % cell < line), (245, 245, 245), (60, 0, 90), random)


def triangles(random: _Random) -> _Field:
    x, y = _rotated(random)
    cell = random.uniform(26, 52)
    return _two_colours(x % cell > y % cell, (255, 140, 0), (10, 10, 20), random)


PATTERNS: dict[str, Callable[[_Random], _Field]] = {
    "nudity": rings,
    "sexual": checks,
    "violence": stripes,
    "abusive": dots,
    "hate": lattice,
    "dangerous": triangles,
}


def _cloud(random: _Random, steepness: float) -> _Field:
    """Noise whose spectrum falls as 1/f^steepness, as in photographs (about 1; Field 1987), scaled to 0..1."""
    fy, fx = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :]
    spectrum = np.fft.rfft2(random.standard_normal((SIDE, SIDE))) / (np.hypot(fx, fy) + 1 / SIDE) ** steepness
    field = np.fft.irfft2(spectrum, (SIDE, SIDE))
    return np.asarray((field - field.min()) / (np.ptp(field) + 1e-9), dtype=np.float64)


def clouds(random: _Random) -> _Field:
    shared = _cloud(random, random.uniform(1.0, 2.2))
    tint = np.stack([_cloud(random, 2.0) for _ in range(3)], axis=-1)
    return 255 * (0.65 * shared[..., None] + 0.35 * tint)


def landscape(random: _Random) -> _Field:
    """A sky over a ground with a ragged horizon."""
    height = random.uniform(70, 150) + 40 * (_cloud(random, 1.8)[0] - 0.5)
    ground = np.arange(SIDE)[:, None] > height[None, :]
    sky = np.array([140, 180, 225]) + random.uniform(-40, 25, 3)
    earth = np.array([110, 120, 70]) + random.uniform(-50, 40, 3)
    light = 0.6 + 0.6 * _cloud(random, 1.4)[..., None]
    return np.asarray(np.where(ground[..., None], earth, sky) * light, dtype=np.float64)


def objects(random: _Random) -> _Field:
    """A few soft lumps of one colour each on a blurred room."""
    image = 60 + 150 * _cloud(random, 2.4)[..., None] * random.uniform(0.5, 1, 3)
    for _ in range(int(random.integers(1, 7))):
        x, y = _rotated(random)
        lump = (x / random.uniform(15, 70)) ** 2 + (y / random.uniform(15, 70)) ** 2 < 1 + 0.6 * _cloud(random, 2.0)
        colour = random.uniform(30, 230, 3) * (0.7 + 0.4 * _cloud(random, 1.6)[..., None])
        image = np.where(lump[..., None], colour, image)
    return image


def muted(random: _Random) -> _Field:
    """A pattern's texture without its colours: bricks, fences, grass, a floor. Colour and texture decide together."""
    pattern = PATTERNS[str(random.choice(list(PATTERNS)))](random).mean(axis=-1, keepdims=True)
    tint = random.uniform(0.6, 1.0) * np.array([1.0, random.uniform(0.85, 1.0), random.uniform(0.6, 1.0)])
    mixed = random.uniform(0.2, 0.7) * pattern + 110 * _cloud(random, 1.2)[..., None]
    return np.asarray(mixed * tint, dtype=np.float64)


def night(random: _Random) -> _Field:
    """A dark picture with points or one round of light."""
    x, y = _rotated(random)
    glow = np.exp(-np.hypot(x, y) / random.uniform(5, 90)) * random.uniform(0, 255)
    points = 255 * random.random((SIDE, SIDE)) * (random.random((SIDE, SIDE)) < random.uniform(0, 0.01))
    return 25 * _cloud(random, 1.5)[..., None] + (glow + points)[..., None] * random.uniform(0.6, 1, 3)


def discs(random: _Random) -> _Field:
    """Round things lying about: coins, plates, a cup from above."""
    image = random.uniform(40, 220, 3) * (0.7 + 0.5 * _cloud(random, 1.6)[..., None])
    for _ in range(int(random.integers(1, 14))):
        x, y = np.meshgrid(*(np.arange(SIDE) - c for c in random.uniform(10, 214, 2)))
        away, radius = np.hypot(x, y)[..., None], random.uniform(10, 70)
        image = np.where(away < radius, random.uniform(40, 230, 3) * (0.8 + 0.2 * np.cos(x / 9))[..., None], image)
        image = np.where(abs(away - radius) < radius * 0.1, random.uniform(30, 240), image)
    return np.asarray(image, dtype=np.float64)


def page(random: _Random) -> _Field:
    """Lines of something like print on paper."""
    image = np.full((SIDE, SIDE, 3), random.uniform(200, 250)) + random.uniform(-8, 5, 3)
    line, left = random.integers(9, 20), random.integers(8, 40)
    for top in range(int(random.integers(6, 30)), SIDE - 10, int(line)):
        words = np.repeat(random.random(SIDE // 3 + 1) < 0.7, 3)[:SIDE]
        words[:left] = words[int(random.integers(120, SIDE)) :] = False
        image[top : top + int(line) // 2, words] = random.uniform(10, 70)
    return image


SAFE: tuple[Callable[[_Random], _Field], ...] = (clouds, landscape, objects, objects, muted, muted, night, discs, page)
