"""Which seconds of a post drive which category.

A window counts for a segment where its score reaches the floor and its own modality drives it: of all modalities in
the window, leaving that one out lowers the category's log-odds most. Text has no seconds: where it drives, the window
is judged again without it. Neighbouring windows of one category merge; longer windows only add where the shorter ones
found nothing, so that the seconds stay sharp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.fusion.features import Floats
from deployments.fusion.mlp import Mlp, softmax
from deployments.fusion.pooling import margins
from deployments.fusion.windows import Windows
from deployments.policy.policy import CATEGORIES
from deployments.runtime.values import Modality


@dataclass(frozen=True)
class Segment:
    start_s: float
    end_s: float
    modality: Modality
    category: str
    score: float


@dataclass(frozen=True)
class ScoredWindows:
    """A group of windows with each modality's part of the first layer."""

    windows: Windows
    parts: Mapping[Modality, Floats]  # present modality -> (n, hidden)
    total: Floats  # (n, hidden): their sum
    logits: Floats  # (n, 7) calibrated


def driven_scores(mlp: Mlp, temperature: float, group: ScoredWindows) -> Floats:
    """(n, 7): each window's scores, 0 where its own modality does not drive the category."""
    own = group.windows.track.modality
    scores = _driven(mlp, temperature, group.parts, group.total, group.logits, own)
    if Modality.TEXT not in group.parts:
        return scores
    parts: dict[Modality, Floats] = {m: part for m, part in group.parts.items() if m is not Modality.TEXT}
    total = group.total - group.parts[Modality.TEXT]
    logits = mlp.finish(total) / np.float32(temperature)
    return np.maximum(scores, _driven(mlp, temperature, parts, total, logits, own))


def _driven(
    mlp: Mlp, temperature: float, parts: Mapping[Modality, Floats], total: Floats, logits: Floats, own: Modality
) -> Floats:
    scores = softmax(logits)
    if len(parts) == 1:
        return scores
    drops = {
        m: margins(logits) - margins(mlp.finish(total - part) / np.float32(temperature)) for m, part in parts.items()
    }
    others = np.max([drop for m, drop in drops.items() if m is not own], axis=0)
    driven = (drops[own] > 0) & (drops[own] >= others)
    result: Floats = np.where(driven, scores, np.float32(0))
    return result


def find_segments(groups: Sequence[tuple[Windows, Floats]], floor: float, limit: int) -> tuple[Segment, ...]:
    """Groups in rising order of length, each with its driven scores (n, 7); at most `limit`, in order of time."""
    found: list[Segment] = []
    for windows, scores in groups:
        for index, category in enumerate(CATEGORIES[1:], start=1):
            fresh = _runs(windows, scores[:, index], floor, category)
            found += [s for s in fresh if not any(_same_place(s, old) for old in found)]
    strongest = sorted(found, key=lambda s: -s.score)[:limit]
    return tuple(sorted(strongest, key=lambda s: (s.start_s, s.end_s, s.modality, s.category)))


def _same_place(new: Segment, old: Segment) -> bool:
    same = new.modality is old.modality and new.category == old.category
    return same and new.start_s < old.end_s and old.start_s < new.end_s


def _runs(windows: Windows, scores: NDArray[np.float32], floor: float, category: str) -> list[Segment]:
    above = np.concatenate([[False], scores >= floor, [False]])
    edges = np.flatnonzero(np.diff(above.astype(np.int8)))
    modality = windows.track.modality
    return [
        Segment(
            start_s=round(float(windows.start_s[a]), 3),
            end_s=round(float(windows.end_s[b - 1]), 3),
            modality=modality,
            category=category,
            score=float(scores[a:b].max()),
        )
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]
