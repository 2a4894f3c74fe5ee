"""Events that must leave. `add` joins the caller's transaction; the store is the publisher's: pending -> mark_published
or failed -> purged by retention. An event keeps its id however often it is published.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from serve_app.posts import Verdict
from serve_app.records import dead_letters, leases, webhooks
from serve_app.records.bulk import insert_all
from serve_app.records.engine import Database
from serve_app.records.event_tables import DeadLetterRow
from serve_app.records.tables import OutboxRow
from serve_app.records.values import OutboxEvent

VERDICTS = "parakh.verdicts"
ERASURES = "parakh.erasures"
REFERENCES = "parakh.references"
CLIPS = "parakh.clips.judged"
STREAMS = "parakh.streams"
MILESTONES = "parakh.milestones"
GATE = "parakh.gate"
REVIEWS = "parakh.reviews"
DEAD_LETTERS = "parakh.dead-letters"

POST_JUDGED = "parakh.post.judged"
POST_ERASED = "parakh.post.erased"
POST_MILESTONE = "parakh.post.milestone"
REFERENCE_QUARANTINED = "parakh.reference.quarantined"
CLIP_JUDGED = "parakh.clip.judged"
STREAM_FLAGGED = "parakh.stream.flagged"
STREAM_CLEARED = "parakh.stream.cleared"
STREAM_ERASED = "parakh.stream.erased"
GATE_DECIDED = "parakh.gate.decided"
GATE_RECALL_LOW = "parakh.gate.recall_low"
REVIEW_DECIDED = "parakh.review.decided"
REVIEW_UNDONE = "parakh.review.undone"
MESSAGE_DEAD = "parakh.message.dead"


@dataclass(frozen=True)
class NewEvent:
    topic: str
    type: str
    key: str  # of the post or stream: events of one key keep their order
    payload: Mapping[str, Any]


def add(session: Session, *events: NewEvent) -> None:
    """Joins the caller's transaction."""
    at = leases.now()
    insert_all(session, OutboxRow, [_values(event, at) for event in events])


def add_dead_letter(session: Session, letter_id: str, attempt: int, code: str) -> None:
    """The message leaves as it came; the id is the same for the same death of the same message."""
    event = NewEvent(DEAD_LETTERS, MESSAGE_DEAD, letter_id, {"id": letter_id, "code": code})
    event_id = str(uuid.uuid5(uuid.UUID(letter_id), str(attempt)))
    values = _values(event, leases.now()) | {"event_id": event_id, "dead_letter_id": letter_id}
    insert_all(session, OutboxRow, [values])


def _values(event: NewEvent, at: datetime) -> dict[str, Any]:
    return {
        "event_id": str(uuid.uuid4()),
        "topic": event.topic,
        "type": event.type,
        "key": event.key,
        "payload": json.dumps(event.payload),
        "created_at": at,
        "published_at": None,
        "attempts": 0,
        "next_attempt_at": None,
        "last_error": None,
        "dead_letter_id": None,
    }


def judged(verdict: Verdict) -> NewEvent:
    """A reference to the verdict and its decision; evidence stays in the records, where erasure reaches it."""
    payload = {
        "post_id": verdict.post_id,
        "revision": verdict.revision,
        "policy_version": verdict.decision.policy_version,
        "action": verdict.decision.action,
        "category": verdict.decision.category,
        "nsfw_score": verdict.nsfw_score,
        "decided_at": verdict.decided_at.isoformat(),
    }
    return NewEvent(VERDICTS, POST_JUDGED, verdict.post_id, payload)


def forget(session: Session, keys: Sequence[str], *topics: str) -> None:
    """Erasure: published or not, with their deliveries."""
    if keys:
        session.execute(delete(OutboxRow).where(OutboxRow.key.in_(keys), OutboxRow.topic.in_(topics)))


class OutboxStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def pending(self, limit: int = 100) -> list[OutboxEvent]:
        """Unpublished events, oldest first; not those that wait for their next attempt."""
        due = OutboxRow.next_attempt_at.is_(None) | (OutboxRow.next_attempt_at <= leases.now())
        query = (
            select(OutboxRow, DeadLetterRow)
            .join(DeadLetterRow, DeadLetterRow.id == OutboxRow.dead_letter_id, isouter=True)
            .where(OutboxRow.published_at.is_(None), due)
            .order_by(OutboxRow.id)
            .limit(limit)
        )
        return await self._database.read(lambda session: [_event(*row) for row in session.execute(query)])

    async def mark_published(self, ids: Sequence[int], deliveries: Sequence[tuple[str, str]] = ()) -> None:
        """The broker has them; in the same transaction, (event_id, endpoint) of the webhooks that must follow."""
        done = update(OutboxRow).where(OutboxRow.id.in_(ids)).values(published_at=leases.now(), last_error=None)

        def work(session: Session) -> None:
            session.execute(done)
            webhooks.add(session, deliveries)

        await self._database.write(work)

    async def failed(self, ids: Sequence[int], error: str, next_attempt_at: datetime) -> None:
        """The broker did not take them. Later events of the same key may now leave before them."""
        values = {"last_error": dead_letters.clean(error, 1000), "next_attempt_at": next_attempt_at}
        tried = update(OutboxRow).where(OutboxRow.id.in_(ids)).values(attempts=OutboxRow.attempts + 1, **values)
        await self._database.write(lambda session: session.execute(tried) and None)

    async def oldest_unpublished(self) -> datetime | None:
        """Since when the oldest event waits: for a gauge."""
        query = select(OutboxRow.created_at).where(OutboxRow.published_at.is_(None)).order_by(OutboxRow.id).limit(1)
        return await self._database.read(lambda session: session.scalar(query))


def _event(row: OutboxRow, letter: DeadLetterRow | None) -> OutboxEvent:
    return OutboxEvent(
        id=row.id,
        event_id=row.event_id,
        topic=row.topic,
        type=row.type,
        key=row.key,
        payload=json.loads(row.payload),
        created_at=row.created_at,
        attempts=row.attempts,
        dead_letter=None if letter is None else dead_letters.letter_of(letter),
    )
