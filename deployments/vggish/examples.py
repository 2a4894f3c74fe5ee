"""Which stretches of a post's sound become examples, and when each starts in the media.

Blocks of sampled long sound are cut one by one, so that no example mixes two places of the media.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import SoundBlock
from deployments.vggish.log_mel import (
    EXAMPLE_FRAMES,
    EXAMPLE_SAMPLES,
    EXAMPLE_SECONDS,
    HOP_SAMPLES,
    WINDOW_SAMPLES,
    log_mel_examples,
)

Tail = Literal["drop", "pad"]


@dataclass(frozen=True)
class SoundItem:
    """The sound of one post: blocks laid end to end in `samples`. No block means: one, heard from second 0."""

    samples: NDArray[np.float32]  # (n,) mono 16 kHz in -1..1
    blocks: tuple[SoundBlock, ...] = ()


def count_examples(item: SoundItem, tail: Tail) -> int:
    """Examples `log_mel_of` will give, by arithmetic alone; at least 1."""
    return max(1, sum(_examples_of_block(block.samples, tail) for block in _blocks(item)))


def _examples_of_block(samples: int, tail: Tail) -> int:
    if samples < EXAMPLE_SAMPLES:
        return 1
    whole = (1 + (samples - WINDOW_SAMPLES) // HOP_SAMPLES) // EXAMPLE_FRAMES
    left_over = samples > whole * EXAMPLE_FRAMES * HOP_SAMPLES + WINDOW_SAMPLES - HOP_SAMPLES
    return whole + (1 if tail == "pad" and left_over else 0)


def log_mel_of(item: SoundItem, tail: Tail) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(examples, 96, 64) and the second at which each starts, (examples,)."""
    blocks = _blocks(item)
    examples = [_log_mel_of_block(item, block, tail) for block in blocks]
    starts = [
        block.start_s + EXAMPLE_SECONDS * np.arange(len(part)) for block, part in zip(blocks, examples, strict=True)
    ]
    return np.concatenate(examples), np.concatenate(starts).astype(np.float32)


def _log_mel_of_block(item: SoundItem, block: SoundBlock, tail: Tail) -> NDArray[np.float32]:
    samples = item.samples[block.first_sample : block.first_sample + block.samples]
    wanted = _samples_of(_examples_of_block(block.samples, tail))
    if wanted > len(samples):
        samples = np.pad(samples, (0, wanted - len(samples)))
    return log_mel_examples(samples)


def _samples_of(examples: int) -> int:
    return EXAMPLE_SAMPLES + (examples - 1) * EXAMPLE_FRAMES * HOP_SAMPLES


def _blocks(item: SoundItem) -> Sequence[SoundBlock]:
    return item.blocks or (SoundBlock(start_s=0.0, first_sample=0, samples=len(item.samples)),)


def invalid_reason(item: object) -> InvalidInput | None:
    """None for finite float32 (n >= 1,) whose blocks lie within it; otherwise the error to answer with."""
    if not isinstance(item, SoundItem) or not isinstance(item.samples, np.ndarray):
        return InvalidInput("Sound must be given as samples with their blocks.")
    if item.samples.ndim != 1 or item.samples.dtype != np.float32:
        return InvalidInput("Sound must be one channel of float32 samples.")
    if len(item.samples) == 0:
        return InvalidInput("There is no sound to encode.")
    if not np.isfinite(item.samples).all():
        return InvalidInput("Sound holds values that are not finite numbers.")
    if any(not _within(block, len(item.samples)) for block in item.blocks):
        return InvalidInput("A block of the sound lies outside its samples.")
    return None


def _within(block: SoundBlock, samples: int) -> bool:
    return block.samples > 0 and block.first_sample >= 0 and block.first_sample + block.samples <= samples
