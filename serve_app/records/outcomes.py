"""Decisions whose posts a person judged, as the table that the gate is calibrated and trained on.

Weights are computed when the table is read: a post that was skipped at the first milestone and sent to review at the
second was sure to be judged, and counts once, even where it had been drawn for an audit before. A post that people saw
for a reason that is neither a rule nor a draw (a stream's flag) says nothing of the others and is left out.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from deployments.policy.policy import UNSAFE
from serve_app.records.engine import Database
from serve_app.records.gate_tables import GateDecisionRow, OutcomeRow
from serve_app.records.inclusion import Net, inclusion_probability

_UTC = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("post_id", pa.string()),
        ("author_id", pa.string()),
        ("language", pa.string()),
        ("content_type", pa.string()),
        ("created_at", _UTC),
        ("reached_at", _UTC),
        ("milestone", pa.int64()),
        ("views", pa.int64()),
        ("score", pa.float64()),
        *((name, pa.float64()) for name in UNSAFE),
        ("author_posts", pa.int64()),
        ("author_discards", pa.int64()),
        ("outcome", pa.bool_()),
        ("weight", pa.float64()),
    ]
)
Pair = tuple[GateDecisionRow, OutcomeRow]


class DecisionExport:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def batches(self, rows: int = 10_000) -> AsyncIterator[Any]:
        """`pyarrow.RecordBatch`es of SCHEMA, by post and milestone; each made of about `rows` decisions."""
        after = ""
        while True:
            pairs = await self._page(after, rows)
            if not pairs:
                return
            batch = pa.RecordBatch.from_pylist(list(_judged(pairs)), schema=SCHEMA)
            after = pairs[-1][0].post_id
            if batch.num_rows:
                yield batch

    async def _page(self, after: str, rows: int) -> list[Pair]:
        """Whole posts only: a post's weight depends on all its decisions."""

        def work(session: Session) -> list[Pair]:
            pairs = _pairs(session, GateDecisionRow.post_id > after, rows)
            if len(pairs) == rows:
                last = pairs[-1][0]
                place = tuple_(GateDecisionRow.post_id, GateDecisionRow.milestone)
                pairs += _pairs(
                    session,
                    (GateDecisionRow.post_id == last.post_id) & (place > (last.post_id, last.milestone)),
                    None,
                )
            return pairs

        return await self._database.read(work)


def _pairs(session: Session, where: Any, limit: int | None) -> list[Pair]:
    same = (OutcomeRow.post_id == GateDecisionRow.post_id) & (OutcomeRow.revision == GateDecisionRow.revision)
    query = select(GateDecisionRow, OutcomeRow).join(OutcomeRow, same).where(where)
    ordered = query.order_by(GateDecisionRow.post_id, GateDecisionRow.milestone).limit(limit)
    return [(decision, outcome) for decision, outcome in session.execute(ordered)]


def _judged(pairs: Sequence[Pair]) -> Iterable[dict[str, Any]]:
    for _, of_post in groupby(pairs, key=lambda pair: pair[0].post_id):
        decided = list(of_post)
        for decision, outcome in decided:
            same = [each for each, _ in decided if each.revision == decision.revision]
            if _drawn_or_ruled(same):
                yield _values(decision, outcome, same)


def _drawn_or_ruled(decisions: Sequence[GateDecisionRow]) -> bool:
    return any(each.audit or "review" in (each.action, each.verdict_action) for each in decisions)


def _values(decision: GateDecisionRow, outcome: OutcomeRow, same: Sequence[GateDecisionRow]) -> dict[str, Any]:
    nets = [Net(each.action, each.inclusion_probability, each.verdict_action) for each in same]
    scores = json.loads(decision.category_scores)
    return {
        "post_id": decision.post_id,
        "author_id": decision.author_id,
        "language": decision.language,
        "content_type": decision.content_type,
        "created_at": decision.created_at,
        "reached_at": decision.reached_at,
        "milestone": decision.milestone,
        "views": decision.views,
        "score": decision.nsfw_score,
        **{name: scores.get(name) for name in UNSAFE},
        "author_posts": decision.author_posts,
        "author_discards": decision.author_discards,
        "outcome": outcome.outcome == "discard",
        "weight": 1.0 / inclusion_probability(nets),
    }
