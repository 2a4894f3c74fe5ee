"""Making probabilities mean what they say: temperature scaling and the error that is left.

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks" (2017). One temperature divides all
logits; it is fitted by negative log-likelihood on posts the weights did not see, and never changes the argmax.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.fusion.mlp import softmax

Labels = NDArray[np.intp]
COLDEST, HOTTEST = 0.05, 20.0


def negative_log_likelihood(
    logits: NDArray[Any], labels: Labels, temperature: float = 1.0, smoothing: float = 0.0
) -> float:
    """Mean over (n, classes) logits and (n,) labels, in nats. `smoothing` is the part of each label's weight that is
    spread over the other classes."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    log_p = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    own = log_p[np.arange(len(labels)), labels]
    others = (log_p.sum(axis=1) - own) / (log_p.shape[1] - 1)
    return -float(np.mean((1.0 - smoothing) * own + smoothing * others))


def fit_temperature(logits: NDArray[Any], labels: Labels) -> float:
    """The temperature of least negative log-likelihood, within 0.05..20; 1 where none is better.

    Where every post is right the likelihood has no minimum: it would make all scores 0 or 1. So the labels are
    smoothed as if one more post than the n seen were wrong, 1 / (n + 2) (the rule of succession, as in Platt 1999).
    The likelihood is convex in 1/T, so shrinking an interval of 1/T finds the one minimum.
    """
    smoothing = 1.0 / (len(labels) + 2)

    def loss(inverse: float) -> float:
        return negative_log_likelihood(logits, labels, 1.0 / inverse, smoothing)

    low, high = 1.0 / HOTTEST, 1.0 / COLDEST
    for _ in range(100):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    fitted = (low + high) / 2
    return 1.0 / fitted if loss(fitted) < loss(1.0) else 1.0


def expected_calibration_error(probabilities: NDArray[Any], labels: Labels, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy of the top class over equal-width bins, weighted by their posts."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(float(confidence[which == b].mean()) - float(correct[which == b].mean())) * float((which == b).mean())
        for b in np.unique(which)
    ]
    return float(sum(gaps))


def probabilities(logits: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """(n, classes) calibrated probabilities."""
    return softmax(np.asarray(logits, dtype=np.float64) / temperature)
