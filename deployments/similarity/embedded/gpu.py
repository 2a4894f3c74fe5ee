"""Large parts on a GPU: a copy of their codes that searches go to. The CPU's copy stays, for filters and for disk.

FAISS on a GPU takes one caller at a time and cannot remove rows: a lock, and dead rows are dropped afterwards like on
the CPU. k and nprobe are at most 2048 there. HNSW, fast-scan PQ and RaBitQ have no GPU form.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from deployments.similarity.embedded.codes import Probe

MAX_K = 2048
_FROM_ROWS = 20_000  # fewer are searched faster where they are

ToDevice = Callable[[Any], Any]


class GpuPart:
    """One index on the device."""

    def __init__(self, index: Any, turn: threading.Lock) -> None:
        self._index = index
        self._turn = turn

    def search(self, probe: Probe, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(n, k) as `Codes.search`, over all rows; k at most MAX_K."""
        parameters = None
        if probe.lists is not None:
            parameters = faiss.SearchParametersIVF(nprobe=min(probe.effort, MAX_K))
        with self._turn:
            scores, positions = self._index.search(probe.queries, k, params=parameters)
        return scores, positions


class Gpu:
    """One device for the parts of an index."""

    def __init__(self, device: str, to_device: ToDevice | None = None) -> None:
        """device: `cuda` or `cuda:N`. Raises ValueError where FAISS sees no such device."""
        self._turn = threading.Lock()
        self._to_device = to_device or _on(int(device.partition(":")[2] or 0))

    def part(self, index: Any) -> GpuPart | None:
        """A copy of `index` on the device; None for one too small to gain by it."""
        if index.ntotal < _FROM_ROWS:
            return None
        with self._turn:
            return GpuPart(self._to_device(index), self._turn)


def gpu_of(device: str) -> Gpu | None:
    """None for the CPU."""
    return None if device == "cpu" else Gpu(device)


def _on(number: int) -> ToDevice:
    if number >= faiss.get_num_gpus():
        raise ValueError(f"device cuda:{number}: FAISS sees {faiss.get_num_gpus()} GPUs on this machine")
    resources = faiss.StandardGpuResources()
    options = faiss.GpuClonerOptions()
    options.useFloat16 = True  # of flat rows and of centroids; scores are taken from the stored rows anyhow
    return lambda index: faiss.index_cpu_to_gpu(resources, number, index, options)
