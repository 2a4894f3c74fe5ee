"""The similarity search, served: one replica, because one process owns the partitions' directory.

Its metrics carry the partition and the use: never a replica, never a post.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from ray import serve
from ray.util.metrics import Counter, Gauge, Histogram

from deployments.similarity.node import SimilarityNode
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.listing import PartitionInfo
from deployments.similarity.values import IndexStats

_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10]
_TAGS = ("partition", "use")
_SWITCH_S = 0.0005
"""How long upkeep may keep the interpreter from a waiting search: a tenth of Python's default."""


class RaySimilarityObserver:
    """A SimilarityObserver; gauges are set at every round of upkeep."""

    def __init__(self) -> None:
        self._search_s = Histogram(
            "parakh_similarity_search_seconds", "One call to an index, all its queries.", _SECONDS, tag_keys=_TAGS
        )
        self._write_s = Histogram("parakh_similarity_write_seconds", "One durable write.", _SECONDS, tag_keys=_TAGS)
        self._queries = Counter("parakh_similarity_queries", "Vectors searched for.", tag_keys=_TAGS)
        self._items_written = Counter("parakh_similarity_written_items", "Items written or deleted.", tag_keys=_TAGS)
        self._errors = Counter("parakh_similarity_errors", "Calls that failed, by kind.", tag_keys=(*_TAGS, "kind"))
        self._gauges = {name: (_gauge(name, text), read) for name, (text, read) in _GAUGES.items()}
        self._recall = _gauge("recall_estimate", "Share of true neighbours found, of searches repeated exactly.")
        self._damaged = _gauge("damaged", "1 where the partition refuses.")

    def searched(self, partition: str, use: str, seconds: float, queries: int) -> None:
        tags = {"partition": partition, "use": use}
        self._search_s.observe(max(seconds, 1e-6), tags)  # ray.util.metrics refuses 0
        self._queries.inc(max(queries, 1), tags)

    def written(self, partition: str, use: str, seconds: float, items: int) -> None:
        if not items:
            return
        tags = {"partition": partition, "use": use}
        self._write_s.observe(max(seconds, 1e-6), tags)
        self._items_written.inc(items, tags)

    def failed(self, partition: str, use: str, kind: str) -> None:
        self._errors.inc(1, {"partition": partition, "use": use, "kind": kind})

    def listed(self, infos: Sequence[PartitionInfo]) -> None:
        for info in infos:
            tags = {"partition": str(info.key)}
            self._damaged.set(int(info.damaged is not None), tags)
            if info.stats is None:
                continue
            for gauge, read in self._gauges.values():
                gauge.set(read(info.stats), tags)
            if info.stats.recall_estimate is not None:
                self._recall.set(info.stats.recall_estimate, tags)


@serve.deployment(name="similarity", num_replicas=1)
class SimilarityDeployment(SimilarityNode):
    def __init__(self, settings: SimilaritySettings) -> None:
        sys.setswitchinterval(_SWITCH_S)
        super().__init__(settings, RaySimilarityObserver())

    def __del__(self) -> None:
        """Serve's way to say that the replica stops."""
        if "_upkeep" in vars(self):  # the constructor came to its end
            self.close()


def _gauge(name: str, description: str) -> Gauge:
    return Gauge(f"parakh_similarity_{name}", description, tag_keys=("partition",))


def _merge_seconds(stats: IndexStats) -> float:
    return float(stats.details.get("merge_seconds") or 0.0)


def _snapshot_age_s(stats: IndexStats) -> float:
    return 0.0 if stats.snapshot_at is None else max(0.0, time.time() - stats.snapshot_at)


_GAUGES: dict[str, tuple[str, Callable[[IndexStats], float]]] = {
    "items": ("Items that a search can find.", lambda stats: stats.items),
    "memory_bytes": ("Memory of codes, buffers and tables.", lambda stats: stats.memory_bytes),
    "disk_bytes": ("Rows and segment files.", lambda stats: stats.disk_bytes),
    "buffered_items": ("Items in the write buffer.", lambda stats: stats.buffered),
    "tombstones": ("Deleted items not yet merged away.", lambda stats: stats.deleted),
    "segments": ("Segment files.", lambda stats: stats.segments),
    "merge_seconds": ("The last merge.", _merge_seconds),
    "snapshot_age_seconds": ("Since the last segment file; 0 where there is none.", _snapshot_age_s),
}
