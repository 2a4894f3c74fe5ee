"""How many cores a call to FAISS may use."""

from __future__ import annotations

import threading

import faiss

_this_thread = threading.local()


def one_thread() -> None:
    """FAISS in this thread uses one core: requests run beside each other, and maintenance beside requests."""
    if not getattr(_this_thread, "set", False):
        faiss.omp_set_num_threads(1)
        _this_thread.set = True
