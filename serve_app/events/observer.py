"""What the consumer tells of itself; `metrics.ConsumerMetrics` makes numbers of it."""

from __future__ import annotations

from typing import Protocol


class ConsumerObserver(Protocol):
    """Told of everything worth a number."""

    def concluded(self, kind: str, outcome: str, age_s: float | None) -> None:
        """`kind`: post, clip, views or refusal. `age_s`: from the creation of the post or clip to its verdict."""

    def retried(self, code: str) -> None: ...

    def in_flight(self, messages: int, oldest_s: float | None) -> None:
        """`oldest_s`: age of the oldest post or clip in work."""


class NoObserver:
    def concluded(self, kind: str, outcome: str, age_s: float | None) -> None:
        pass

    def retried(self, code: str) -> None:
        pass

    def in_flight(self, messages: int, oldest_s: float | None) -> None:
        pass
