"""Events that must leave. `add` joins the caller's transaction; `pending` and `mark_published` are the publisher's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from serve_app.posts import Verdict
from serve_app.records.engine import Database
from serve_app.records.tables import OutboxRow
from serve_app.records.values import OutboxEvent

VERDICTS = "parakh.verdicts"
ERASURES = "parakh.erasures"
REFERENCES = "parakh.references"


def add(session: Session, topic: str, key: str, payload: Mapping[str, Any]) -> None:
    session.add(
        OutboxRow(
            event_id=str(uuid.uuid4()),
            topic=topic,
            key=key,
            payload=json.dumps(payload),
            created_at=datetime.now(UTC),
            published_at=None,
            attempts=0,
        )
    )


def verdict_payload(verdict: Verdict) -> dict[str, Any]:
    """A reference to the verdict and its decision; evidence stays in the records, where erasure reaches it."""
    return {
        "post_id": verdict.post_id,
        "revision": verdict.revision,
        "policy_version": verdict.decision.policy_version,
        "action": verdict.decision.action,
        "category": verdict.decision.category,
        "nsfw_score": verdict.nsfw_score,
        "decided_at": verdict.decided_at.isoformat(),
    }


def forget_verdicts(session: Session, key: str) -> None:
    session.execute(delete(OutboxRow).where(OutboxRow.key == key, OutboxRow.topic == VERDICTS))


class OutboxStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def pending(self, limit: int = 100) -> list[OutboxEvent]:
        """Unpublished events, oldest first."""
        query = select(OutboxRow).where(OutboxRow.published_at.is_(None)).order_by(OutboxRow.id).limit(limit)
        return await self._database.read(lambda session: [_event(row) for row in session.scalars(query)])

    async def mark_published(self, ids: Sequence[int]) -> None:
        done = update(OutboxRow).where(OutboxRow.id.in_(ids)).values(published_at=datetime.now(UTC))
        await self._database.write(lambda session: session.execute(done) and None)


def _event(row: OutboxRow) -> OutboxEvent:
    return OutboxEvent(row.id, row.event_id, row.topic, row.key, json.loads(row.payload), row.created_at)
