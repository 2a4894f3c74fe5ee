"""How good probabilities are on decisions that they have not seen: weighted throughout, because the decisions are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.review_gate.features import Floats

BINS = 10


def quality(probability: Floats, outcome: NDArray[np.bool_], weight: Floats) -> dict[str, Any]:
    """JSON-ready. `discarded_share` is what saying the same of every post would be held against."""
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    loss = -np.where(outcome, np.log(p), np.log1p(-p))
    bins = reliability(probability, outcome, weight)
    return {
        "decisions": len(p),
        "discarded_share": float(np.average(outcome, weights=weight)),
        "auc": area_under_curve(probability, outcome, weight),
        "log_loss": float(np.average(loss, weights=weight)),
        "brier": float(np.average((p - outcome) ** 2, weights=weight)),
        "calibration_error": float(sum(b["share"] * abs(b["said"] - b["seen"]) for b in bins)),
        "reliability": bins,
    }


def reliability(probability: Floats, outcome: NDArray[np.bool_], weight: Floats) -> list[dict[str, float]]:
    """Tenths of the decisions by probability: what was said, and what was seen."""
    order = np.argsort(probability, kind="stable")
    return [
        {
            "said": float(np.average(probability[rows], weights=weight[rows])),
            "seen": float(np.average(outcome[rows], weights=weight[rows])),
            "share": float(weight[rows].sum() / weight.sum()),
        }
        for rows in np.array_split(order, BINS)
        if len(rows)
    ]


def area_under_curve(scores: Floats, outcome: NDArray[np.bool_], weight: Floats) -> float:
    """Chance that a discarded post scores above one that was kept, ties counted half (Mann and Whitney, 1947)."""
    _, level = np.unique(scores, return_inverse=True)
    bad, good = (np.bincount(level, weight * kind, minlength=level.max() + 1) for kind in (outcome, ~outcome))
    below = np.cumsum(good) - good
    return float((bad * (below + good / 2)).sum() / (bad.sum() * good.sum()))


def saved_at_recall(scores: Floats, outcome: NDArray[np.bool_], weight: Floats, recall: float) -> float:
    """Share of the decisions below the one threshold at which just this recall is left: the order alone, no bound."""
    order = np.argsort(scores[outcome], kind="stable")
    bad, of_each = scores[outcome][order], weight[outcome][order]
    missed = int(np.searchsorted(np.cumsum(of_each) / of_each.sum(), 1 - recall, side="right"))
    threshold = bad[min(missed, len(bad) - 1)]
    return float(weight[scores < threshold].sum() / weight.sum())
