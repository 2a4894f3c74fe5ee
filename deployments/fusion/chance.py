"""What many good windows reach by chance: the offset that a group of windows must beat before it counts.

Thirty windows of safe content do not score alike; the pool of the highest lies above the score of their mean, in each
of six categories. So minutes of safe content are put together from calibration posts, and how far their pool rises
above their mean is measured. The offset is the 95 % quantile of that rise: of such minutes, one in twenty rises at
all. They are put together from different posts, which vary more than the seconds of one: the offset errs upwards.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deployments.fusion.dataset import CALIBRATE, Dataset
from deployments.fusion.features import MODALITIES, Floats, unit
from deployments.fusion.mlp import Mlp
from deployments.fusion.pooling import log_mean_exp, margins
from deployments.runtime.values import Modality

TIMED = (Modality.VISUAL, Modality.AUDIO)
BAGS, WINDOWS, QUANTILE, FEWEST = 300, 30, 0.95, 10


def safe_vectors(data: Dataset, modality: Modality) -> Floats:
    """(n, dimension) unit vectors of calibration posts whose content in this modality is safe."""
    alone = np.tile([m is modality for m in MODALITIES], (len(data.labels), 1))
    has = data.present[:, MODALITIES.index(modality)]
    rows = (data.splits == CALIBRATE) & has & (data.labels_under(alone) == 0)
    return np.asarray(data.vectors[modality][rows], dtype=np.float32)


def unsafe_log_odds(window_margins: Floats) -> Floats:
    """(..., 7) margins over safe -> (...,): log of P(not safe) / P(safe)."""
    return np.asarray(np.log(np.exp(window_margins[..., 1:]).sum(axis=-1)), dtype=np.float32)


def fit_offsets(mlp: Mlp, temperature: float, sharpness: float, data: Dataset, seed: int) -> Mapping[Modality, float]:
    """Offset in log-odds per timed modality; 0 where calibration has fewer than ten safe vectors of it."""
    random = np.random.default_rng(seed)
    offsets = {}
    for modality in TIMED:
        vectors = safe_vectors(data, modality)
        rises = [0.0]
        if len(vectors) >= FEWEST:
            single = margins(mlp.logits({modality: vectors}) / np.float32(temperature))
            draws = random.integers(len(vectors), size=(BAGS, WINDOWS))
            means = unit(vectors[draws].mean(axis=1))
            whole = unsafe_log_odds(margins(mlp.logits({modality: means}) / np.float32(temperature)))
            pools = [log_mean_exp(single[draw], sharpness) for draw in draws]
            rises = list(unsafe_log_odds(np.stack(pools)) - whole)
        offsets[modality] = max(0.0, float(np.quantile(rises, QUANTILE)))
    return offsets
