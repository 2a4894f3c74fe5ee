"""What a classifier is worth on held-out posts, in numpy: precision, recall, AUC, accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.intp]


def precision(predicted: Labels, labels: Labels, category: int) -> float | None:
    """Of the posts called this category, the part that is; None where none was called so."""
    called = predicted == category
    return float((labels[called] == category).mean()) if called.any() else None


def recall(predicted: Labels, labels: Labels, category: int) -> float | None:
    """Of the posts of this category, the part that was called so; None where there is none."""
    real = labels == category
    return float((predicted[real] == category).mean()) if real.any() else None


def area_under_curve(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float | None:
    """ROC AUC as the Mann-Whitney statistic, ties counted half; None where one side is empty."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(size)
    ranks = (last - (size - 1) / 2.0)[group]  # mean rank of a tied group, from 1
    statistic = float(ranks[positive].sum()) - n_positive * (n_positive + 1) / 2.0
    return statistic / (n_positive * n_negative)


def accuracy(predicted: Labels, labels: Labels) -> float | None:
    return float((predicted == labels).mean()) if len(labels) else None
