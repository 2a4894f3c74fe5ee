"""Recall against review volume saved: every threshold there could have been, and the ones that were chosen."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from deployments.review_gate.artefact import Calibration, CalibrationSettings
from deployments.review_gate.calibration import bad_posts, bound_for
from deployments.review_gate.table import DecisionTable, Floats

POINTS = 400


@dataclass(frozen=True, eq=False)
class Curve:
    """One threshold for all posts of a milestone, POINTS times."""

    milestone: int
    thresholds: Floats
    saved: Floats  # share of posts below
    recall: Floats
    recall_lower: Floats  # at each threshold by itself


def operating_curve(table: DecisionTable, milestone: int, settings: CalibrationSettings) -> Curve:
    part = table.select(table.milestones == milestone)
    order = np.argsort(part.scores, kind="stable")
    scores = part.scores[order]
    below = np.concatenate([[0.0], np.cumsum(part.weights[order])]) / part.weights.sum()
    places = np.unique(np.linspace(0, len(scores) - 1, POINTS).astype(np.int64))
    thresholds = np.unique(np.concatenate([scores[places], [0.0, 1.0]]))
    bound = bound_for(bad_posts(part, np.arange(len(part))), settings)
    return Curve(
        milestone,
        thresholds,
        np.asarray(below[np.searchsorted(scores, thresholds, side="left")]),
        bound.recall_at(thresholds),
        bound.at(thresholds),
    )


def curve_png(curves: list[Curve], calibration: Calibration) -> bytes:
    """One panel a milestone: the curve with its bound, and a dot for each stratum's threshold."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2 * len(curves), 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    lowest = calibration.settings.target - 4 * (1 - calibration.settings.target)
    for place, curve in enumerate(curves):
        axes = figure.add_subplot(1, len(curves), place + 1)
        axes.plot(100 * curve.saved, curve.recall, color="#1f4e79", label="one threshold for all: recall")
        axes.fill_between(
            100 * curve.saved, curve.recall_lower, curve.recall, color="#1f4e79", alpha=0.2, label="its lower bound"
        )
        chosen = [s for s in calibration.strata if s.milestone == curve.milestone and s.recall is not None]
        if chosen:
            recall = np.array([s.recall for s in chosen], dtype=np.float64)
            lower = np.array([s.recall_lower for s in chosen], dtype=np.float64)
            saved = 100 * np.array([s.saved for s in chosen])
            down = np.vstack([recall - lower, np.zeros(len(chosen))])
            axes.errorbar(saved, recall, yerr=down, fmt="o", ms=4, lw=1, color="#c55a11", label="chosen, by stratum")
        axes.axhline(calibration.settings.target, color="0.4", ls="--", lw=1, label="target")
        axes.set_xlim(0, 100)
        axes.set_ylim(max(0.0, lowest), 1.002)
        axes.set_xlabel("reviews saved, %")
        axes.set_ylabel("recall")
        axes.set_title(f"at {curve.milestone:,} views".replace(",", " "))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left", fontsize=8)
    target = io.BytesIO()
    figure.savefig(target, format="png", metadata={"Software": None})
    return target.getvalue()
