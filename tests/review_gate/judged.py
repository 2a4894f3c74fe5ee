"""Small tables of decisions for tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def columns(scores: Sequence[float], outcomes: Sequence[bool], **changed: Any) -> dict[str, Any]:
    """A table's columns; each post has an author of its own unless `author_id` says otherwise."""
    n = len(scores)
    return {
        "post_id": [f"p{row}" for row in range(n)],
        "author_id": [f"a{row}" for row in range(n)],
        "language": ["hi"] * n,
        "content_type": ["video"] * n,
        "created_at": [NOW - timedelta(days=2)] * n,
        "reached_at": [NOW - timedelta(days=1)] * n,
        "milestone": [1000] * n,
        "views": [1000] * n,
        "score": list(scores),
        "outcome": list(outcomes),
        **changed,
    }


def decisions(scores: Sequence[float], outcomes: Sequence[bool], **changed: Any) -> pa.Table:
    return pa.table(columns(scores, outcomes, **changed))


def overlapping(positives: int, negatives: int, seed: int = 0, **changed: Any) -> pa.Table:
    """Scores of bad posts about a standard deviation and a half above the others'."""
    rng = np.random.default_rng(seed)
    logits = np.concatenate([rng.normal(1.0, 1.2, positives), rng.normal(-2.0, 1.2, negatives)])
    return decisions(list(1 / (1 + np.exp(-logits))), [True] * positives + [False] * negatives, **changed)
