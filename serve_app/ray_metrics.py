"""Metrics of a replica: exported by Ray, with everything that Ray itself exports."""

from __future__ import annotations

from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge, Histogram

from serve_app.metrics import Record


class RayMeter:
    """Meter."""

    def counter(self, name: str, description: str, labels: Sequence[str] = ()) -> Record:
        metric = Counter(name, description, tag_keys=tuple(labels))
        return lambda value, tags: metric.inc(value, tags)

    def gauge(self, name: str, description: str, labels: Sequence[str] = ()) -> Record:
        metric = Gauge(name, description, tag_keys=tuple(labels))
        return lambda value, tags: metric.set(value, tags)

    def histogram(self, name: str, description: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Record:
        metric = Histogram(name, description, boundaries=list(buckets), tag_keys=tuple(labels))
        return lambda value, tags: metric.observe(value, tags)
