"""Deletes by age, a small batch in each transaction, so that nobody waits long for a lock or the writer's turn.

Two processes may sweep at once: PostgreSQL skips what the other one is deleting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from serve_app.records import dead_letters, leases
from serve_app.records.engine import Database
from serve_app.records.event_tables import (
    ClipRow,
    ConsumedEventRow,
    DeadLetterRow,
    StreamRow,
    WebhookDeliveryRow,
)
from serve_app.records.settings import RetentionSettings
from serve_app.records.tables import OutboxRow, Table

BATCH = 500


class RetentionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def sweep(self, settings: RetentionSettings) -> Mapping[str, int]:
        """How many rows went, by table."""
        return {
            name: await self._all(delete_batch, keep_s)
            for name, delete_batch, keep_s in (
                ("clips", _clips, settings.clips_s),
                ("streams", _streams, settings.clips_s),
                ("consumed_events", _consumed_events, settings.consumed_events_s),
                ("dead_letters", _dead_letters, settings.dead_letters_s),
                ("webhook_deliveries", _deliveries, settings.deliveries_s),
                ("outbox", _outbox, settings.published_events_s),
            )
        }

    async def _all(self, delete_batch: Callable[[Session, datetime], int], keep_s: float | None) -> int:
        if keep_s is None:
            return 0
        before = leases.now() - timedelta(seconds=keep_s)
        deleted = batch = await self._database.write(lambda session: delete_batch(session, before))
        while batch == BATCH:
            batch = await self._database.write(lambda session: delete_batch(session, before))
            deleted += batch
        return deleted


def _clips(session: Session, before: datetime) -> int:
    return _delete(session, ClipRow, (ClipRow.stream_id, ClipRow.start_ms), ClipRow.decided_at, before)


def _streams(session: Session, before: datetime) -> int:
    clip_left = exists().where(ClipRow.stream_id == StreamRow.stream_id)
    return _delete(session, StreamRow, (StreamRow.stream_id,), StreamRow.updated_at, before, ~clip_left)


def _consumed_events(session: Session, before: datetime) -> int:
    return _delete(session, ConsumedEventRow, (ConsumedEventRow.key,), ConsumedEventRow.at, before)


def _deliveries(session: Session, before: datetime) -> int:
    identity = (WebhookDeliveryRow.event_id, WebhookDeliveryRow.endpoint)
    done = WebhookDeliveryRow.done_at.is_not(None)
    return _delete(session, WebhookDeliveryRow, identity, WebhookDeliveryRow.done_at, before, done)


def _outbox(session: Session, before: datetime) -> int:
    is_open = exists().where(WebhookDeliveryRow.event_id == OutboxRow.event_id, WebhookDeliveryRow.done_at.is_(None))
    published = OutboxRow.published_at.is_not(None)
    return _delete(session, OutboxRow, (OutboxRow.id,), OutboxRow.published_at, before, published, ~is_open)


def _dead_letters(session: Session, before: datetime) -> int:
    """Only what was replayed, and told."""
    event = aliased(OutboxRow)
    untold = exists().where(event.key == DeadLetterRow.id, event.published_at.is_(None))
    query = select(DeadLetterRow.id, DeadLetterRow.value_sha256).where(~untold)
    rows = session.execute(_oldest(query, DeadLetterRow.replayed_at, before)).all()
    dead_letters.remove(session, [row.id for row in rows], [row.value_sha256 for row in rows])
    return len(rows)


def _delete(
    session: Session,
    table: type[Table],
    identity: tuple[InstrumentedAttribute[Any], ...],
    at: InstrumentedAttribute[Any],
    before: datetime,
    *conditions: ColumnElement[bool],
) -> int:
    """Read with a lock, then deleted by key."""
    rows = session.execute(_oldest(select(*identity).where(*conditions), at, before)).all()
    if rows:
        session.execute(delete(table).where(tuple_(*identity).in_([tuple(row) for row in rows])))
    return len(rows)


def _oldest(query: Any, at: InstrumentedAttribute[Any], before: datetime) -> Any:
    return query.where(at < before).order_by(at).limit(BATCH).with_for_update(skip_locked=True)
