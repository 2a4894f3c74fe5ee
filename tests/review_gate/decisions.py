"""A small world of judged decisions in which an author's history says what the score does not."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from deployments.policy.policy import UNSAFE
from deployments.review_gate.table import DecisionTable, from_arrow

START = datetime(2025, 1, 1, tzinfo=UTC)
LANGUAGES = np.array(["hi", "hi-Latn", "en", "ta", None], dtype=object)
TYPES = np.array(["video", "image", "text"], dtype=object)


def decisions(n: int = 8000, seed: int = 0, second_net: float = 0.3, known: float = 0.9) -> pa.Table:
    """n posts at 1 000 views, and a part of them again at 2 000. `known`: share of posts whose author's history is."""
    random = np.random.default_rng(seed)
    authors = random.integers(0, n // 8, n)
    bad_habit = random.normal(-3.2, 1.8, n // 8)[authors]
    outcome = random.random(n) < 1 / (1 + np.exp(-bad_habit))
    score = 1 / (1 + np.exp(-random.normal(np.where(outcome, 0.5, -2.0), 1.3)))
    posts = random.poisson(30, n) + 1
    discards = random.binomial(posts, 1 / (1 + np.exp(-bad_habit)))
    seen = random.random(n) < known
    created = np.datetime64("2025-01-01T00:00:00", "us") + (np.arange(n) * 600_000_000).astype("timedelta64[us]")
    reached = created + (random.exponential(20, n) * 3_600_000_000).astype("timedelta64[us]")
    columns = {
        "post_id": np.array([f"p{i}" for i in range(n)], dtype=object),
        "author_id": np.array([f"a{a}" for a in authors], dtype=object),
        "language": LANGUAGES[random.integers(0, len(LANGUAGES), n)],
        "content_type": TYPES[random.integers(0, len(TYPES), n)],
        "created_at": created,
        "reached_at": reached,
        "milestone": np.full(n, 1000),
        "views": 1000 + random.integers(0, 50, n),
        "score": score,
        "outcome": outcome,
        "author_posts": np.where(seen, posts, np.nan),
        "author_discards": np.where(seen, discards, np.nan),
        **{name: score / len(UNSAFE) for name in UNSAFE},
    }
    again = np.flatnonzero(random.random(n) < second_net)
    later = {name: values[again] for name, values in columns.items()}
    later |= {"milestone": later["milestone"] * 2, "views": later["views"] * 2}
    later["reached_at"] = later["reached_at"] + np.timedelta64(5, "h")
    return pa.table({name: _array(name, np.concatenate([columns[name], later[name]])) for name in columns})


def table(n: int = 8000, seed: int = 0, known: float = 0.9) -> DecisionTable:
    return from_arrow(decisions(n, seed, known=known))


def _array(name: str, values: np.ndarray) -> pa.Array:
    kind = pa.timestamp("us", "UTC") if name in ("created_at", "reached_at") else None
    return pa.array(values, type=kind, from_pandas=True)
