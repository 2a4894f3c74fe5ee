"""Batch metrics of a served node: the one file of `runtime` that imports Ray.

Ray already exports requests, queues and replicas; these tell what happens inside a replica's batcher.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray.util.metrics import Gauge, Histogram

_SECONDS = [0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60]
_COUNTS = [1, 2, 4, 8, 16, 32, 64, 128]


class RayBatchObserver:
    """A BatchObserver tagged with the node's name alone: never with a replica or a post."""

    def __init__(self, node: str) -> None:
        tags = {"node": node}
        self._items = _histogram("parakh_batch_items", "Items in one batch.", _COUNTS, tags)
        self._weight = _histogram("parakh_batch_weight", "Weight of one batch, in the encoder's unit.", _COUNTS, tags)
        self._wait = _histogram("parakh_batch_wait_seconds", "Wait of a batch's oldest item.", _SECONDS, tags)
        self._execution = _histogram("parakh_batch_execution_seconds", "Run time of one batch.", _SECONDS, tags)
        self._queue = Gauge("parakh_batch_queue_length", "Items waiting for a batch.", tag_keys=("node",))
        self._queue.set_default_tags(tags)

    def batch_done(self, *, items: int, weight: int, wait_s: float, execution_s: float) -> None:
        self._items.observe(items)
        self._weight.observe(weight)
        self._wait.observe(max(wait_s, 1e-6))  # ray.util.metrics refuses 0
        self._execution.observe(max(execution_s, 1e-6))

    def queue_length(self, items: int) -> None:
        self._queue.set(items)


def _histogram(name: str, description: str, boundaries: Sequence[float], tags: dict[str, str]) -> Histogram:
    histogram = Histogram(name, description, boundaries=list(boundaries), tag_keys=tuple(tags))
    histogram.set_default_tags(tags)
    return histogram
