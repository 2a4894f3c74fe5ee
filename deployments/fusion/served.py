"""What a head serves, measured on held-out posts: windows and all, not the mean over frames alone.

Three questions: how good are the served scores of posts whose single frames are known; how many minutes with a few bad
frames reach a moderator under the default policy (and how many without any, which is the price); and can a confident
window reach the review threshold at all, once the offset for chance is taken off?
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deployments.fusion.artefact import FusionCard
from deployments.fusion.calibration import expected_calibration_error, negative_log_likelihood
from deployments.fusion.dataset import HELDOUT, Dataset
from deployments.fusion.features import MODALITIES, Floats, FusionInput, unit
from deployments.fusion.head import FusionHead
from deployments.fusion.metrics import accuracy
from deployments.policy.policy import CATEGORIES, UNSAFE, default_policy
from deployments.runtime.values import Embeddings, Modality, ModalityStatus, Status, TextEmbedding

FRAMES, VIDEOS = 60, 60
BAD_FRAMES = (0, 1, 2, 3, 6, 12)
CONFIDENT = 0.99
_SEEN = {Modality.VISUAL: ModalityStatus(Status.OK)}


def served_scores(head: FusionHead, data: Dataset) -> dict[str, Any] | None:
    """Of held-out posts whose frames are in the table; None where there are none."""
    rows = np.flatnonzero((data.splits == HELDOUT) & np.array([frames is not None for frames in data.frames]))
    if not len(rows):
        return None
    labels = data.labels_under(data.present)[rows]
    scores = np.array([list(head.predict(_post(data, int(row))).category_scores.values()) for row in rows])
    return {
        "posts": len(rows),
        "accuracy": accuracy(scores.argmax(axis=1), labels),
        "nll": negative_log_likelihood(np.log(np.maximum(scores, 1e-12)), labels),
        "ece": expected_calibration_error(scores, labels),
    }


def _post(data: Dataset, row: int) -> FusionInput:
    has = dict(zip(MODALITIES, data.present[row], strict=True))
    frames, sound, text = data.frames[row], data.vectors[Modality.AUDIO][row], data.vectors[Modality.TEXT][row]
    return FusionInput(
        frames=None if frames is None else Embeddings(frames),
        sound=Embeddings(sound[None]) if has[Modality.AUDIO] else None,
        text=TextEmbedding(text, tokens=1, truncated=False) if has[Modality.TEXT] else None,
    )


def short_stretches(head: FusionHead, data: Dataset, seed: int = 0) -> list[dict[str, Any]]:
    """Minutes of held-out safe frames with k consecutive bad ones: which part the default policy sends to review.

    `by_score` counts the post's scores alone, `review` the listed segments too; with k = 0 both are false alarms. The
    minutes mix the frames of many posts, which vary more than the seconds of one. Empty where nothing is held out.
    """
    pools = _frames_by_category(data)
    bad = [name for name in UNSAFE if len(pools[name])]
    if not bad or not len(pools["safe"]):
        return []
    random = np.random.default_rng(seed)
    result = []
    for k in BAD_FRAMES:
        judged = [_judged(head, _minute(pools, bad[i % len(bad)], k, random)) for i in range(VIDEOS)]
        by_score, by_both = np.mean(judged, axis=0)
        result.append({"bad_frames": k, "videos": VIDEOS, "by_score": float(by_score), "review": float(by_both)})
    return result


def _frames_by_category(data: Dataset) -> dict[str, Floats]:
    """Unit vectors of the held-out frames that show each category (of whole pictures, where frames are not known)."""
    alone = np.tile([m is Modality.VISUAL for m in MODALITIES], (len(data.labels), 1))
    shown, has = data.labels_under(alone), data.present[:, MODALITIES.index(Modality.VISUAL)]
    pools: dict[str, list[Floats]] = {name: [] for name in CATEGORIES}
    for row in np.flatnonzero(has & (data.splits == HELDOUT)):
        frames = data.frames[row]
        pools[CATEGORIES[shown[row]]].append(data.vectors[Modality.VISUAL][row][None] if frames is None else frames)
    return {
        name: unit(np.concatenate(found)) if found else np.zeros((0, 1), np.float32) for name, found in pools.items()
    }


def _minute(pools: Mapping[str, Floats], category: str, k: int, random: np.random.Generator) -> FusionInput:
    frames = random.choice(pools["safe"], FRAMES)
    start = int(random.integers(FRAMES - k + 1))
    frames[start : start + k] = random.choice(pools[category], k)
    return FusionInput(frames=Embeddings(frames))


def _judged(head: FusionHead, video: FusionInput) -> tuple[bool, bool]:
    """Whether it goes to review by its scores alone, and with its segments."""
    output, policy = head.predict(video), default_policy()
    segments = [(segment.category, segment.score) for segment in output.segments]
    by_score = policy.decide(output.category_scores, None, _SEEN).action
    by_both = policy.decide(output.category_scores, None, _SEEN, segments=segments).action
    return by_score != "allow", by_both != "allow"


def offset_warnings(card: FusionCard) -> list[str]:
    """A sentence for each modality in which one confident window of sixty cannot bring its post to review by score."""
    limit = max(default_policy().thresholds(name).review for name in UNSAFE)
    certain = np.log(CONFIDENT / (1 - CONFIDENT)) - np.log(FRAMES) / card.pooling.sharpness
    warnings = []
    for modality, offset in card.pooling.offsets.items():
        reached = 1.0 / (1.0 + np.exp(offset - certain))
        if reached < limit:
            warnings.append(
                f"{modality}: one window of {FRAMES} that scores {CONFIDENT} lifts the post's score to {reached:.2f} "
                f"at most, below the review threshold of {limit:.2f} (offset {offset:.2f}): only segments tell of it."
            )
    return warnings
