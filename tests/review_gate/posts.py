"""Posts at a milestone, and thresholds, for the tests of the gate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from deployments.review_gate.values import AuthorHistory, GateInput

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
HISTORY = AuthorHistory("ok", 20, 7, 180, NOW)
POST = GateInput(
    post_id="p1",
    milestone=1000,
    views=1040,
    nsfw_score=0.3,
    category_scores={"nudity": 0.1, "violence": 0.2},
    language="hi",
    content_type="video",
    created_at=NOW - timedelta(hours=6),
    reached_at=NOW - timedelta(hours=1),
    history=HISTORY,
)


def post(**changes: Any) -> GateInput:
    return dataclasses.replace(POST, **changes)


@dataclass(frozen=True)
class OneThreshold:
    """A calibration of one stratum."""

    threshold: float | None
    id: str = "calibration-1"

    def lookup(self, language: str | None, content_type: str, milestone: int) -> tuple[str, float | None]:
        return "*", self.threshold
