"""How well a trunk as it is served agrees with transformers' own fp32 pass, measured at every load on fixed clips.

The clips are stand-in sounds made by arithmetic, of three kinds and lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import ModelError
from deployments.runtime.stand_in_sounds import sound
from deployments.wav2vec2.head import Head, softmax
from deployments.wav2vec2.labels import LabelMap
from deployments.wav2vec2.preprocess import prepare
from deployments.wav2vec2.runtimes import Rows, TrunkRuntime

_SEED = 20
_PROBES = {"safe": 0.7, "abusive": 1.9, "violence": 3.3}  # kind of sound -> seconds


@dataclass(frozen=True)
class Agreement:
    """Of one trunk and the heads over it, the worst of all probe clips."""

    cosine: float  # of the pooled hidden state
    score_shift: float  # largest change of a category's probability


def probe_clips() -> list[NDArray[np.float32]]:
    """The same clips in every process: (n,) mono 16 kHz, within -1..1."""
    random = np.random.default_rng(_SEED)
    return [sound(kind, seconds, random) for kind, seconds in _PROBES.items()]


def reference_rows(model: Any, clips: Sequence[NDArray[np.float32]], all_layers: bool) -> list[Rows]:
    """transformers' own forward pass of a Wav2Vec2Model, one clip at a time, in the layout of `Trunk`."""
    import torch

    found = []
    with torch.inference_mode():
        for clip in clips:
            output = model(torch.from_numpy(clip).unsqueeze(0), output_hidden_states=all_layers)
            states = [output.last_hidden_state, *(output.hidden_states if all_layers else ())]
            found.append(torch.stack([state[0].mean(0) for state in states]).numpy())
    return found


def measure(
    runtime: TrunkRuntime,
    clips: Sequence[NDArray[np.float32]],
    expected: Sequence[Rows],
    heads: Sequence[tuple[Head, LabelMap]],
) -> Agreement:
    """`clips` as prepared for the trunk, with the rows the reference gave for them."""
    found = runtime(clips)
    cosines, shifts = [], []
    for rows, wanted in zip(found, expected, strict=True):
        for head, labels in heads:
            cosines.append(_cosine(head.pooled(rows), head.pooled(wanted)))
            shift = labels(softmax(head(rows))) - labels(softmax(head(wanted)))
            shifts.append(float(np.abs(shift).max()))
    return Agreement(min(cosines), max(shifts))


def require(agreement: Agreement, source: str, min_agreement: float, max_score_shift: float) -> None:
    """Raises ModelError naming the figure that is out of bounds, NaN included."""
    if not agreement.cosine >= min_agreement:
        raise ModelError(
            f"{source}: the model as served agrees with fp32 only to a cosine of {agreement.cosine:.6f}; "
            f"min_agreement is {min_agreement}. Set precision to 'fp32', or runtime to 'torch'."
        )
    if not agreement.score_shift <= max_score_shift:
        raise ModelError(
            f"{source}: the model as served moves a probability by {agreement.score_shift:.4f} against fp32; "
            f"max_score_shift is {max_score_shift}. Set precision to 'fp32', or runtime to 'torch'."
        )


def prepared_probes(do_normalize: bool) -> list[NDArray[np.float32]]:
    return [prepare(clip, do_normalize) for clip in probe_clips()]


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    return float(wide_a @ wide_b / np.sqrt((wide_a @ wide_a) * (wide_b @ wide_b)))
