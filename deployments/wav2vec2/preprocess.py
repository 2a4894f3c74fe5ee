"""What transformers' Wav2Vec2FeatureExtractor does to one clip, before anything is padded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def prepare(samples: NDArray[np.float32], do_normalize: bool) -> NDArray[np.float32]:
    """(n,) as the checkpoint wants it: mean 0 and variance 1 where its preprocessor_config.json says so."""
    if not do_normalize:
        return np.ascontiguousarray(samples)
    with np.errstate(over="ignore", invalid="ignore"):  # absurdly loud sound comes out as NaN, and is refused for it
        normal: NDArray[np.float32] = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    return normal
