"""float16 rows as float32: exact, by FAISS, whose conversion is two to three times as fast as numpy's."""

from __future__ import annotations

from functools import cache
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray


def single(matrix: NDArray[Any]) -> NDArray[np.float32]:
    """(n, d) float16 or float32 as float32."""
    if matrix.dtype != np.float16 or not len(matrix):
        return np.ascontiguousarray(matrix, dtype=np.float32)
    decoded: NDArray[np.float32] = _decoder(matrix.shape[1]).decode(np.ascontiguousarray(matrix).view(np.uint8))
    return decoded


@cache
def _decoder(dimension: int) -> Any:
    return faiss.ScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16)
