"""The held-out report of a head: numbers for report.json, and the same as a table a person can read.

Accuracy, calibration and the tables are of the post as a whole (the mean over its frames), on which the temperature is
fitted; what is served, windows included, has rows of its own (served.py).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from deployments.fusion.calibration import expected_calibration_error, negative_log_likelihood, probabilities
from deployments.fusion.dataset import HELDOUT, SPLITS, Bools, Dataset
from deployments.fusion.features import MODALITIES, Floats
from deployments.fusion.head import FusionHead
from deployments.fusion.metrics import accuracy, area_under_curve, precision, recall
from deployments.fusion.mlp import Mlp
from deployments.fusion.served import FRAMES, offset_warnings, served_scores, short_stretches
from deployments.policy.policy import CATEGORIES
from deployments.runtime.values import Modality

SUBSETS: tuple[tuple[Modality, ...], ...] = tuple(
    subset for size in (1, 2, 3) for subset in combinations(MODALITIES, size)
)


def logits_under(mlp: Mlp, data: Dataset, rows: Bools, kept: Bools) -> Floats:
    """Logits of the posts in `rows` when only the modalities `kept` (n, 3) are looked at: (rows, 7)."""
    width = mlp.tensors["layers.0.bias"].shape[0]
    total = np.zeros((int(rows.sum()), width), dtype=np.float32)
    for bit, modality in enumerate(MODALITIES):
        seen = kept[rows, bit]
        total[seen] += mlp.project(modality, data.vectors[modality][rows][seen])
    return mlp.finish(total)


def held_out_report(head: FusionHead, data: Dataset) -> dict[str, Any]:
    """Everything that is known of the head on posts it has not seen; JSON-ready."""
    mlp, temperature = head.mlp, head.details.temperature
    rows = data.splits == HELDOUT
    labels = data.labels_under(data.present)[rows]
    logits = logits_under(mlp, data, rows, data.present)
    before, after = probabilities(logits, 1.0), probabilities(logits, temperature)
    return {
        "posts": {name: int((data.splits == name).sum()) for name in SPLITS},
        "accuracy": accuracy(after.argmax(axis=1), labels),
        "most_common_label_accuracy": float(np.bincount(labels).max() / len(labels)),
        "nll": {
            "before": negative_log_likelihood(logits, labels),
            "after": negative_log_likelihood(logits, labels, temperature),
        },
        "ece": {
            "before": expected_calibration_error(before, labels),
            "after": expected_calibration_error(after, labels),
        },
        "temperature": temperature,
        "categories": _by_category(after, labels),
        "subsets": _by_subset(mlp, data, rows),
        "languages": _by_language(after.argmax(axis=1), labels, data, rows),
        "served": served_scores(head, data),
        "short_stretches": short_stretches(head, data),
        "warnings": offset_warnings(head.details),
    }


def _by_category(scores: Any, labels: Any) -> dict[str, Any]:
    predicted = scores.argmax(axis=1)
    return {
        name: {
            "posts": int((labels == index).sum()),
            "precision": precision(predicted, labels, index),
            "recall": recall(predicted, labels, index),
            "auc": area_under_curve(scores[:, index], labels == index),
        }
        for index, name in enumerate(CATEGORIES)
    }


def _by_subset(mlp: Mlp, data: Dataset, rows: Bools) -> dict[str, Any]:
    """Held-out posts that have every modality of the subset, all their others left out."""
    result = {}
    for subset in SUBSETS:
        wanted = np.array([m in subset for m in MODALITIES])
        having = rows & data.present[:, wanted].all(axis=1)
        kept = np.broadcast_to(wanted, data.present.shape)
        labels = data.labels_under(kept)[having]
        predicted = logits_under(mlp, data, having, kept).argmax(axis=1)
        common = float(np.bincount(labels).max() / len(labels)) if len(labels) else None
        result["+".join(subset)] = {
            "posts": len(labels),
            "accuracy": accuracy(predicted, labels),
            "most_common_label_accuracy": common,
        }
    return result


def _by_language(predicted: Any, labels: Any, data: Dataset, rows: Bools) -> dict[str, Any]:
    tags = np.array([data.languages[row] or "" for row in np.flatnonzero(rows)])
    return {
        str(tag): {"posts": int((tags == tag).sum()), "accuracy": accuracy(predicted[tags == tag], labels[tags == tag])}
        for tag in np.unique(tags)
        if tag
    }


def as_text(report: Mapping[str, Any]) -> str:
    """The report as lines of at most 80 columns."""
    posts = report["posts"]
    lines = [
        f"posts: {posts['train']} for training, {posts['calibrate']} for calibration, {posts['heldout']} held out",
        f"held-out accuracy {_number(report['accuracy'])}"
        f" (always the commonest label: {_number(report['most_common_label_accuracy'])})",
        f"calibration error {_number(report['ece']['before'])} -> {_number(report['ece']['after'])}"
        f" at temperature {report['temperature']:.3f}"
        f" (log-loss {_number(report['nll']['before'])} -> {_number(report['nll']['after'])})",
        "",
        f"{'category':<12}{'posts':>7}{'precision':>11}{'recall':>9}{'AUC':>9}",
    ]
    for name, row in report["categories"].items():
        numbers = f"{_number(row['precision']):>11}{_number(row['recall']):>9}{_number(row['auc']):>9}"
        lines.append(f"{name:<12}{row['posts']:>7}{numbers}")
    lines += ["", f"{'looked at':<20}{'posts':>7}{'accuracy':>11}{'commonest':>11}"]
    for name, row in report["subsets"].items():
        common = _number(row["most_common_label_accuracy"])
        lines.append(f"{name:<20}{row['posts']:>7}{_number(row['accuracy']):>11}{common:>11}")
    if report["languages"]:
        lines += ["", f"{'language':<20}{'posts':>7}{'accuracy':>11}"]
        lines += [f"{n:<20}{r['posts']:>7}{_number(r['accuracy']):>11}" for n, r in report["languages"].items()]
    return "\n".join(lines + _served_lines(report)) + "\n"


def _served_lines(report: Mapping[str, Any]) -> list[str]:
    lines = []
    if served := report["served"]:
        lines += [
            "",
            f"as served, windows included, {served['posts']} held-out posts with frames:",
            f"accuracy {_number(served['accuracy'])}, calibration error {_number(served['ece'])},"
            f" log-loss {_number(served['nll'])}",
        ]
    if report["short_stretches"]:
        lines += ["", f"{f'bad frames of {FRAMES}':<20}{'videos':>7}{'review by score':>17}{'with segments':>15}"]
        lines += [
            f"{row['bad_frames']:<20}{row['videos']:>7}{_number(row['by_score']):>17}{_number(row['review']):>15}"
            for row in report["short_stretches"]
        ]
    for warning in report["warnings"]:
        lines += ["", *textwrap.wrap(f"warning: {warning}", 80)]
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
