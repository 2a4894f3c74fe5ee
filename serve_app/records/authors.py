"""An author's history, by two indexed range scans at the moment it is asked for: no counter that could drift.

The window is half-open, [as_of - days, as_of), over the times at which posts were created; a discard counts for its
post and only if it was decided before `as_of`, so that a late event sees what it would have seen in time, and a table
of past decisions holds nothing that came after them. The post in question never counts for itself. What is erased or
undone is gone from the next question on. An author of whom nothing but this post is known has no history: `missing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, timedelta

from sqlalchemy import ColumnClause, func, literal_column, select
from sqlalchemy.orm import Session

from deployments.review_gate.values import AuthorHistory
from serve_app.records.engine import Database
from serve_app.records.gate_tables import OutcomeRow
from serve_app.records.gate_values import HistoryAsk
from serve_app.records.tables import PostRow

_DISCARD: ColumnClause[str] = literal_column(
    "'discard'"
)  # word for word as in the partial index: SQLite uses it only then


class AuthorStore:
    def __init__(self, database: Database, days: int) -> None:
        self._database, self._days = database, days

    async def histories(self, asked: Sequence[HistoryAsk]) -> list[AuthorHistory]:
        """In their order; `ok` or `missing`."""
        return await self._database.read(lambda session: [self._one(session, ask) for ask in asked])

    def _one(self, session: Session, ask: HistoryAsk) -> AuthorHistory:
        as_of = ask.as_of.astimezone(UTC)  # elsewhere 180 days may be an hour more or less
        since = as_of - timedelta(days=self._days)
        others = (PostRow.author_id == ask.author_id, PostRow.post_id != ask.post_id)
        posts = (
            select(func.count(PostRow.post_id.distinct()))
            .where(*others, PostRow.created_at >= since, PostRow.created_at < as_of)
            .scalar_subquery()
        )
        discards = (
            select(func.count(OutcomeRow.post_id.distinct()))
            .where(
                OutcomeRow.outcome == _DISCARD,
                OutcomeRow.author_id == ask.author_id,
                OutcomeRow.post_id != ask.post_id,
                OutcomeRow.post_created_at >= since,
                OutcomeRow.post_created_at < as_of,
                OutcomeRow.decided_at < as_of,
            )
            .scalar_subquery()
        )
        known = select(PostRow.post_id).where(*others).exists()
        found = session.execute(select(posts, discards, known)).one()
        if not found[2]:
            return AuthorHistory("missing", None, None, self._days, as_of)
        return AuthorHistory("ok", found[0], found[1], self._days, as_of)
