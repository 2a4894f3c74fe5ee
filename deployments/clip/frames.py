"""How frames of several posts share forward passes: check each post, lay the good ones end to end, cut, give back.

A post that cannot be judged becomes an error at its own place: InvalidInput where its frames are wrong,
NodeUnavailable where the encoder gave no finite vector. The others never notice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput, NodeUnavailable
from deployments.runtime.values import Embeddings

Frames = NDArray[np.uint8]
"""(n, side, side, 3) RGB: frames of one post, of the encoder's own FrameSpec."""

Columns = dict[str, NDArray[np.float32]]
"""What one forward pass gives: name -> (frames, ...), one row a frame."""

Forward = Callable[[Frames], Columns]


def invalid_reason(item: object, side: int) -> InvalidInput | None:
    """None for uint8 (n >= 1, side, side, 3); otherwise the error to answer with."""
    if not isinstance(item, np.ndarray) or item.dtype != np.uint8:
        return InvalidInput("Frames must be an array of uint8.")
    if item.ndim != 4 or item.shape[1:] != (side, side, 3):
        return InvalidInput(f"Frames must have shape (n, {side}, {side}, 3), not {item.shape}.")
    if item.shape[0] == 0:
        return InvalidInput("There is no frame to encode.")
    return None


def encode_together(
    items: Sequence[Frames], side: int, max_batch_frames: int, forward: Forward
) -> list[Columns | InvalidInput]:
    """Rows of each post, in order, or its error. At most `max_batch_frames` frames in one forward pass."""
    errors = [invalid_reason(item, side) for item in items]
    good = [item for item, error in zip(items, errors, strict=True) if error is None]
    counts = [len(item) for item in good]
    shares = iter(_share_out(_run(good, max_batch_frames, forward), counts)) if good else iter(())
    return [next(shares) if error is None else error for error in errors]


def _run(good: Sequence[Frames], max_batch_frames: int, forward: Forward) -> Columns:
    frames = good[0] if len(good) == 1 else np.concatenate(good)
    parts = [forward(frames[i : i + max_batch_frames]) for i in range(0, len(frames), max_batch_frames)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _share_out(rows: Columns, counts: Sequence[int]) -> list[Columns]:
    ends = np.cumsum(counts)
    return [
        {name: column[end - n : end].copy() for name, column in rows.items()}
        for end, n in zip(ends, counts, strict=True)
    ]


def to_embeddings(columns: Columns | InvalidInput) -> Embeddings | InvalidInput | NodeUnavailable:
    """`vectors` and `joint` become the fields of that name, every other column evidence.

    Any uint8 frame is sound input, so a number that is not finite is the encoder's fault: NodeUnavailable, which costs
    the post this modality. InvalidInput would blame the sender, ModelError end an in-process run.
    """
    if isinstance(columns, InvalidInput):
        return columns
    if not all(np.isfinite(column).all() for column in columns.values()):
        return NodeUnavailable("The visual encoder gave a number that is not finite.")
    evidence = {name: column for name, column in columns.items() if name not in ("vectors", "joint")}
    return Embeddings(vectors=columns["vectors"], evidence=evidence, joint=columns.get("joint"))
