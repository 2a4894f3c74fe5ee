"""Events on their way to webhooks: one row for each event and endpoint, until it was delivered or given up.

The outbox has the body and keeps it as long as a delivery is open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from serve_app.records import dead_letters, leases
from serve_app.records.bulk import upsert
from serve_app.records.engine import Database
from serve_app.records.event_tables import WebhookDeliveryRow
from serve_app.records.tables import OutboxRow
from serve_app.records.values import WebhookDelivery


def add(session: Session, deliveries: Sequence[tuple[str, str]]) -> None:
    """Joins the transaction that marks the events as published. Idempotent; an event that was erased has none."""
    if not deliveries:
        return
    events = select(OutboxRow.event_id).where(OutboxRow.event_id.in_({event_id for event_id, _ in deliveries}))
    standing = set(session.scalars(events.with_for_update(read=True)))
    at = leases.now()
    rows = [
        {
            "event_id": event_id,
            "endpoint": endpoint,
            "attempts": 0,
            "created_at": at,
            "next_attempt_at": at,
            "last_status": None,
            "last_error": None,
            "delivered": False,
            "done_at": None,
        }
        for event_id, endpoint in deliveries
        if event_id in standing
    ]
    if rows:
        session.execute(upsert(session, WebhookDeliveryRow).on_conflict_do_nothing(), rows)


class WebhookStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, limit: int = 100, endpoints: Sequence[str] | None = None) -> list[WebhookDelivery]:
        """Longest overdue first; of the given endpoints only, where some are given."""
        query = (
            select(WebhookDeliveryRow, OutboxRow)
            .join(OutboxRow, OutboxRow.event_id == WebhookDeliveryRow.event_id)
            .where(WebhookDeliveryRow.done_at.is_(None), WebhookDeliveryRow.next_attempt_at <= leases.now())
            .order_by(WebhookDeliveryRow.next_attempt_at, OutboxRow.id)
            .limit(limit)
        )
        if endpoints is not None:
            query = query.where(WebhookDeliveryRow.endpoint.in_(endpoints))
        return await self._database.read(lambda session: [_delivery(*row) for row in session.execute(query)])

    async def delivered(self, event_id: str, endpoint: str, status: int) -> None:
        done = {"delivered": True, "done_at": leases.now(), "last_error": None}
        await self._attempted(event_id, endpoint, status, done)

    async def failed(
        self, event_id: str, endpoint: str, status: int | None, error: str, next_attempt_at: datetime | None
    ) -> None:
        """`status`: None where there was no answer. `next_attempt_at`: None gives the delivery up."""
        after: dict[str, Any] = {"last_error": dead_letters.clean(error, 1000)}
        after |= {"done_at": leases.now()} if next_attempt_at is None else {"next_attempt_at": next_attempt_at}
        await self._attempted(event_id, endpoint, status, after)

    async def _attempted(self, event_id: str, endpoint: str, status: int | None, after: dict[str, Any]) -> None:
        row = update(WebhookDeliveryRow).where(
            WebhookDeliveryRow.event_id == event_id,
            WebhookDeliveryRow.endpoint == endpoint,
            WebhookDeliveryRow.done_at.is_(None),
        )
        tried = row.values(attempts=WebhookDeliveryRow.attempts + 1, last_status=status, **after)
        await self._database.write(lambda session: session.execute(tried) and None)

    async def oldest_open(self) -> datetime | None:
        """Since when the oldest delivery waits: for a gauge."""
        query = select(WebhookDeliveryRow.created_at).where(WebhookDeliveryRow.done_at.is_(None))
        oldest = query.order_by(WebhookDeliveryRow.created_at).limit(1)
        return await self._database.read(lambda session: session.scalar(oldest))


def _delivery(row: WebhookDeliveryRow, event: OutboxRow) -> WebhookDelivery:
    return WebhookDelivery(
        event_id=row.event_id,
        endpoint=row.endpoint,
        topic=event.topic,
        type=event.type,
        key=event.key,
        payload=json.loads(event.payload),
        created_at=event.created_at,
        attempts=row.attempts,
    )
