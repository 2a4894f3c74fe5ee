"""The 10-minute promise: every post has a verdict within so many seconds of its creation.

While there is time, a post waits for a node that is down. When the deadline nears it no longer does, and the frames of
a video, by far the dearest modality, are left out where there is no time for them; the verdict says so and asks for a
person. A post whose deadline has passed already has nothing to win by haste: it is judged whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from deployments.runtime.values import Modality
from serve_app.posts import Verdict

_SMOOTHING = 0.1  # weight of the newest observation


class PromiseSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict_within_s: float = Field(600.0, gt=0, description="Seconds from a post's creation to its verdict.")
    reserve_s: float = Field(
        30.0, ge=0, description="From so long before the deadline on, a post no longer waits for a node that is down."
    )
    skip_frames: bool = Field(
        True, description="Leave out a video's frames where there is no time for them; the verdict is at least review."
    )


class AgeObserver(Protocol):
    """Is the promise kept? `kind`: post or clip; `where`: jobs or events."""

    def judged(self, kind: str, age_s: float) -> None: ...

    def oldest_unfinished(self, where: str, age_s: float) -> None: ...


@dataclass(frozen=True)
class Plan:
    wait_for_nodes: bool
    without: frozenset[Modality] = frozenset()


class Promise:
    def __init__(
        self, settings: PromiseSettings | None = None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._settings = settings or PromiseSettings()
        self._now = now
        self._frames_s = 0.0  # what the frames of a post took of late

    def left_s(self, created_at: datetime) -> float:
        """Negative where the deadline has passed."""
        return self._settings.verdict_within_s - (self._now() - created_at).total_seconds()

    def plan(self, created_at: datetime) -> Plan:
        left_s = self.left_s(created_at)
        if left_s <= 0:
            return Plan(wait_for_nodes=True)
        hurried = left_s < self._settings.reserve_s
        if hurried and self._settings.skip_frames and left_s < 2 * self._frames_s:
            return Plan(wait_for_nodes=False, without=frozenset({Modality.VISUAL}))
        return Plan(wait_for_nodes=not hurried)

    def note(self, verdict: Verdict) -> None:
        """Learn what frames take: the time in the visual encoder's queue included."""
        took_s = verdict.timings_s.get("clip")
        if took_s is not None:
            self._frames_s += _SMOOTHING * (took_s - self._frames_s) if self._frames_s else took_s
