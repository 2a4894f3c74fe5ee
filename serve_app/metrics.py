"""Parakh's own metrics of the doors: one definition, two homes.

Inside a replica they are Ray's (`ray_metrics.RayMeter`: exported with all that Ray exports); in a process of its own,
such as `parakh consume`, they are prometheus_client's (`PrometheusMeter`). Never a label by post, stream or replica.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram

AGE_BUCKETS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 420.0, 540.0, 600.0, 900.0, 3600.0)
"""Finest where the promise of ten minutes is kept or broken."""

Labels = dict[str, str]
Record = Callable[[float, Labels], None]


class Meter(Protocol):
    def counter(self, name: str, description: str, labels: Sequence[str] = ()) -> Record: ...

    def gauge(self, name: str, description: str, labels: Sequence[str] = ()) -> Record: ...

    def histogram(
        self, name: str, description: str, buckets: Sequence[float], labels: Sequence[str] = ()
    ) -> Record: ...


class PrometheusMeter:
    def counter(self, name: str, description: str, labels: Sequence[str] = ()) -> Record:
        metric = Counter(name, description, labels)
        return lambda value, tags: (metric.labels(**tags) if tags else metric).inc(value)

    def gauge(self, name: str, description: str, labels: Sequence[str] = ()) -> Record:
        metric = Gauge(name, description, labels)
        return lambda value, tags: (metric.labels(**tags) if tags else metric).set(value)

    def histogram(self, name: str, description: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Record:
        metric = Histogram(name, description, labels, buckets=buckets)
        return lambda value, tags: (metric.labels(**tags) if tags else metric).observe(value)


class LookupMetrics:
    """LookupObserver."""

    def __init__(self, meter: Meter) -> None:
        self._matches = meter.counter("parakh_matches", "Matches in verdicts.", ("use", "stage"))
        self._reused = meter.counter("parakh_reused_verdicts", "Exact re-uploads that no encoder had to run for.")
        self._failed = meter.counter("parakh_failed_match_searches", "Verdicts whose search for matches failed.")

    def matched(self, use: str, stage: str) -> None:
        self._matches(1, {"use": use, "stage": stage})

    def reused(self) -> None:
        self._reused(1, {})

    def search_failed(self) -> None:
        self._failed(1, {})


class AgeMetrics:
    """AgeObserver: is the promise of ten minutes kept?"""

    def __init__(self, meter: Meter) -> None:
        self._age = meter.histogram(
            "parakh_age_at_verdict_seconds",
            "From a post's or clip's creation to its verdict.",
            AGE_BUCKETS_S,
            ("kind",),
        )
        self._oldest = meter.gauge(
            "parakh_oldest_unfinished_seconds", "Age of the oldest post or clip that still waits.", ("where",)
        )

    def judged(self, kind: str, age_s: float) -> None:
        self._age(max(0.0, age_s), {"kind": kind})

    def oldest_unfinished(self, where: str, age_s: float) -> None:
        self._oldest(max(0.0, age_s), {"where": where})


class ConsumerMetrics:
    """ConsumerObserver."""

    def __init__(self, meter: Meter, ages: AgeMetrics) -> None:
        self._ages = ages
        self._concluded = meter.counter(
            "parakh_events", "Events worked off, by what became of them.", ("kind", "outcome")
        )
        self._retried = meter.counter(
            "parakh_event_retries", "Attempts that ended in an error that may pass.", ("code",)
        )
        self._in_flight = meter.gauge("parakh_events_in_flight", "Messages in work in this process.")

    def concluded(self, kind: str, outcome: str, age_s: float | None) -> None:
        self._concluded(1, {"kind": kind, "outcome": outcome})
        if age_s is not None and outcome == "done":
            self._ages.judged(kind, age_s)

    def retried(self, code: str) -> None:
        self._retried(1, {"code": code})

    def in_flight(self, messages: int, oldest_s: float | None) -> None:
        self._in_flight(messages, {})
        self._ages.oldest_unfinished("events", oldest_s or 0.0)


class PublisherMetrics:
    """PublisherObserver."""

    def __init__(self, meter: Meter) -> None:
        self._published = meter.counter("parakh_outbox_published", "Events that left.", ("type",))
        self._failed = meter.counter(
            "parakh_outbox_failures", "Attempts at sending an event that failed.", ("type", "code")
        )
        self._oldest = meter.gauge("parakh_outbox_oldest_seconds", "Age of the oldest event that has not left.")

    def published(self, type_: str) -> None:
        self._published(1, {"type": type_})

    def publish_failed(self, type_: str, code: str) -> None:
        self._failed(1, {"type": type_, "code": code})

    def oldest_unpublished(self, age_s: float) -> None:
        self._oldest(age_s, {})


class WebhookMetrics:
    """WebhookObserver."""

    def __init__(self, meter: Meter) -> None:
        self._attempts = meter.counter(
            "parakh_webhook_attempts", "Posts to webhook endpoints, by how they ended.", ("endpoint", "outcome")
        )

    def delivered(self, endpoint: str) -> None:
        self._attempts(1, {"endpoint": endpoint, "outcome": "delivered"})

    def failed(self, endpoint: str, status: int | None) -> None:
        self._attempts(1, {"endpoint": endpoint, "outcome": "failed" if status is None else str(status)})

    def gave_up(self, endpoint: str) -> None:
        self._attempts(1, {"endpoint": endpoint, "outcome": "gave_up"})


class GateMetrics:
    """GateObserver."""

    def __init__(self, meter: Meter) -> None:
        labels = ("milestone", "action", "audit")
        self._decided = meter.counter("parakh_gate_decisions", "Posts decided on at a milestone.", labels)
        self._failed = meter.counter("parakh_gate_failures", "Milestones that could not be decided, yet.", ("code",))
        self._recall = meter.gauge("parakh_gate_recall", "Live recall of the first net.", ("language", "bound"))
        self._waiting = meter.gauge("parakh_gate_waiting", "Milestones that wait for their decision.")
        self._oldest = meter.gauge("parakh_gate_oldest_seconds", "Age of the oldest of them.")
        self._reviews = meter.gauge("parakh_reviews_open", "Reviews that wait for a moderator.")
        self._overdue = meter.gauge("parakh_reviews_overdue_seconds", "By how much the most urgent one is overdue.")

    def decided(self, milestone: int, action: str, audit: bool) -> None:
        self._decided(1, {"milestone": str(milestone), "action": action, "audit": str(audit).lower()})

    def failed(self, code: str) -> None:
        self._failed(1, {"code": code})

    def recall(self, language: str, estimate: float, lower: float, upper: float) -> None:
        for bound, value in (("estimate", estimate), ("lower", lower), ("upper", upper)):
            self._recall(value, {"language": language, "bound": bound})

    def waiting(self, jobs: int, oldest_s: float) -> None:
        self._waiting(jobs, {})
        self._oldest(oldest_s, {})

    def queue(self, reviews: int, overdue_s: float) -> None:
        self._reviews(reviews, {})
        self._overdue(overdue_s, {})


class Metrics:
    """All of a process's own; made once, for a name may be registered only once."""

    def __init__(self, meter: Meter) -> None:
        self.ages = AgeMetrics(meter)
        self.lookup = LookupMetrics(meter)
        self.consumer = ConsumerMetrics(meter, self.ages)
        self.publisher = PublisherMetrics(meter)
        self.webhooks = WebhookMetrics(meter)
        self.gate = GateMetrics(meter)
