"""How the scores of windows join the score of the whole post.

Two bad seconds in a minute vanish in the mean over frames. So windows are scored too, and per group of windows (one
modality, one length) each category's margin over `safe` is pooled by log-mean-exp (Pinheiro and Collobert 2015, LSE
pooling):
    m_pool = (1/r) log( (1/n) sum exp(r m_i) )
With r = 1 this is the mean of the odds; it rises to the maximum with r. Its cost for being rare is log(n/k)/r (k bad
windows of n), which keeps one noisy window of sixty from deciding. It never exceeds the worst window, so n windows
that are each fine are fine together; equal windows give back their own margin; Gaussian noise of deviation s lifts
the pool by about r s^2 / 2. What good content reaches by chance is measured after training (chance.py) and taken off
as an offset. The post's margin is the larger of the whole's and the groups' above their offsets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deployments.fusion.features import Floats
from deployments.fusion.mlp import softmax


def margins(logits: Floats) -> Floats:
    """(..., 7) calibrated logits -> (..., 7): log-odds of each category against `safe` (0 for safe itself)."""
    result: Floats = logits - logits[..., :1]
    return result


def log_mean_exp(values: Floats, sharpness: float) -> Floats:
    """(n, 7) -> (7,)"""
    top = values.max(axis=0)
    spread = np.exp(sharpness * (values - top)).mean(axis=0)
    return np.asarray(top + np.log(spread) / sharpness, dtype=np.float32)


def post_scores(whole: Floats, groups: Sequence[tuple[Floats, float]], sharpness: float) -> NDArray[np.float64]:
    """Logits of the whole (7,), and of each group of windows (n, 7) with its offset -> seven scores that sum to 1."""
    combined = margins(whole).astype(np.float64)
    for logits, offset in groups:
        pooled = log_mean_exp(margins(logits), sharpness) - offset
        combined[1:] = np.maximum(combined[1:], pooled[1:])
    return softmax(combined)
