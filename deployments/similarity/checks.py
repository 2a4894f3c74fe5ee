"""What an index refuses, the same for every backend: raised before anything is written."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput
from deployments.similarity.spaces import Space
from deployments.similarity.values import MAX_ATTRIBUTES_BYTES, MAX_ID_BYTES, FrameVectors, Item

MAX_K = 1000


def checked_items(space: Space, items: Sequence[Item]) -> list[Item]:
    """The items with canonical rows as vectors; of several with one id only the last. Raises InvalidInput."""
    last = {check_id(item.id): item for item in items}
    return [_checked(space, item) for item in last.values()]


def check_id(value: str) -> str:
    """`value`, if it may name an item. Raises InvalidInput."""
    if not isinstance(value, str) or not value:
        raise InvalidInput("An item needs an id that is not empty.", param="id")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidInput("An id is Unicode text without lone surrogates.", param="id") from None
    if size > MAX_ID_BYTES or any(character < " " or character == "\x7f" for character in value):
        raise InvalidInput(f"An id has at most {MAX_ID_BYTES} bytes and no control characters.", param="id")
    return value


def checked_search(
    space: Space, queries: NDArray[Any] | Sequence[NDArray[Any]], k: int, threshold: float | None
) -> list[NDArray[Any]]:
    """The queries in the space's own form. Raises InvalidInput."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise InvalidInput(f"k must be a whole number between 1 and {MAX_K}.", param="k")
    if threshold is not None and not math.isfinite(threshold):
        raise InvalidInput("The threshold must be a finite number.", param="threshold")
    return space.queries(queries)


def attributes_json(item: Item) -> str:
    """Raises InvalidInput where they are not JSON or too long."""
    try:
        text = json.dumps(dict(item.attributes), ensure_ascii=False, sort_keys=True, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, UnicodeEncodeError):
        raise InvalidInput("The attributes are not a JSON object.", param="attributes") from None
    if size > MAX_ATTRIBUTES_BYTES:
        raise InvalidInput(f"The attributes exceed {MAX_ATTRIBUTES_BYTES} bytes of JSON.", param="attributes")
    return text


def _checked(space: Space, item: Item) -> Item:
    attributes_json(item)
    if not math.isfinite(item.created_at):
        raise InvalidInput("created_at must be a finite number of seconds.", param="created_at")
    for name in ("language", "content_type"):
        value = getattr(item, name)
        if not isinstance(value, str) or len(value) > 64 or not (value.isascii() and value.isprintable()):
            raise InvalidInput(f"{name} must be at most 64 printable ASCII characters.", param=name)
    return dataclasses.replace(item, vector=space.row(item.vector), frames=_checked_frames(space, item.frames))


def _checked_frames(space: Space, frames: FrameVectors | None) -> FrameVectors | None:
    if frames is None:
        return None
    vectors, times_s = np.asarray(frames.vectors), np.asarray(frames.times_s)
    if space.binary or vectors.ndim != 2 or vectors.shape[1] != space.dimension or times_s.shape != (len(vectors),):
        raise InvalidInput(
            f"Frame vectors must be (n, {space.dimension}) with (n,) times; binary spaces take none.", param="frames"
        )
    with np.errstate(over="ignore"):
        kept = FrameVectors(vectors.astype(np.float16), times_s.astype(np.float32))
    if not (np.isfinite(kept.vectors).all() and np.isfinite(kept.times_s).all()):
        raise InvalidInput("Frame vectors and times must be finite in float16 and float32.", param="frames")
    return kept
