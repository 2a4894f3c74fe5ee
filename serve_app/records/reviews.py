"""The moderators' queue: claim -> decide -> undo. A claim is a lock with an end; what a person decides is an outcome.

A review whose lock is over may be claimed by anyone; until somebody does, its last holder may still decide it. Claims,
decisions and their undoing are each one transaction with a line in the audit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from serve_app.gate_settings import QueueSettings
from serve_app.records import audit, leases, outbox
from serve_app.records.bulk import insert_all
from serve_app.records.engine import Database
from serve_app.records.errors import ReviewDecided, ReviewNotFound, ReviewNotHeld, UndoRefused
from serve_app.records.gate_tables import GateDecisionRow, OutcomeRow, ReviewRow
from serve_app.records.gate_values import Opening, Outcome, QueueCount, Review
from serve_app.records.inclusion import Net, inclusion_probability
from serve_app.records.outbox import NewEvent
from serve_app.records.review_queue import ReviewWriter, primary_language


class ReviewStore:
    def __init__(self, database: Database, settings: QueueSettings) -> None:
        self._database, self._settings = database, settings

    async def open(self, opening: Opening) -> None:
        """Queue a post, or add the reason to the review that is open for it."""

        def work(session: Session) -> None:
            self._database.lock(session, "post", opening.post_id)
            ReviewWriter(session, self._settings).open([opening])

        await self._database.write(work)

    async def claim(self, reviewer: str, limit: int = 1, languages: Sequence[str] | None = None) -> list[Review]:
        """What is due first and free, locked for `claim_s`. `languages` by their first subtag; None: any."""
        wanted = None if languages is None else sorted({primary_language(tag) for tag in languages})

        def work(session: Session) -> list[Review]:
            at = leases.now()
            rows = list(session.scalars(_free(limit, wanted).with_for_update(skip_locked=True)))
            for row in rows:
                row.claimed_by, row.claimed_until = reviewer, at + timedelta(seconds=self._settings.claim_s)
                audit.add(session, reviewer, "review.claim", row.post_id, review=row.review_id)
            return [_review(row) for row in rows]

        if await self._database.read(lambda session: session.scalars(_free(1, wanted)).first()) is None:
            return []  # an empty queue costs no writer's turn
        return await self._database.write(work)

    async def find(self, review_id: str) -> Review:
        """Raises ReviewNotFound."""

        def work(session: Session) -> Review:
            row = session.get(ReviewRow, review_id)
            if row is None:
                raise ReviewNotFound
            return _review(row)

        return await self._database.read(work)

    async def decide(
        self, review_id: str, reviewer: str, outcome: Outcome, category: str | None = None, note: str | None = None
    ) -> Review:
        """Store the outcome; the same again changes nothing. Raises ReviewNotFound, ReviewNotHeld, ReviewDecided."""

        def work(session: Session) -> Review:
            row = self._locked(session, review_id)
            if row.claimed_by != reviewer:
                raise ReviewDecided if row.decided_at is not None else ReviewNotHeld
            if row.decided_at is not None:
                if (row.outcome, row.category, row.note) != (outcome, category, note):
                    raise ReviewDecided
                return _review(row)
            row.decided_at, row.outcome, row.category, row.note = leases.now(), outcome, category, note
            insert_all(session, OutcomeRow, [_outcome_values(session, row, reviewer)])
            _tell(session, row, outbox.REVIEW_DECIDED)
            detail = {"review": review_id, "outcome": outcome, "category": category}
            audit.add(session, reviewer, "review.decide", row.post_id, **detail)
            return _review(row)

        return await self._database.write(work)

    async def undo(self, review_id: str, reviewer: str, *, admin: bool = False) -> Review:
        """Open again, with the one who undid it; again changes nothing. An admin may undo what others decided.

        Raises ReviewNotFound, ReviewNotHeld, UndoRefused.
        """

        def work(session: Session) -> Review:
            row = self._locked(session, review_id)
            at = leases.now()
            if row.claimed_by != reviewer and not admin:
                raise ReviewNotHeld
            if row.decided_at is None:
                if row.claimed_by != reviewer:
                    raise ReviewNotHeld
                return _review(row)
            if row.decided_at + timedelta(seconds=self._settings.undo_s) < at:
                raise UndoRefused(f"A decision may be undone for {self._settings.undo_s:g} s.")
            other = select(ReviewRow.review_id).where(ReviewRow.post_id == row.post_id, ReviewRow.decided_at.is_(None))
            if session.scalar(other) is not None:
                raise UndoRefused("The post is in the queue again already.")
            undone = {"review": review_id, "outcome": row.outcome, "category": row.category}
            row.decided_at, row.outcome, row.category, row.note = None, None, None, None
            row.claimed_by, row.claimed_until = reviewer, at + timedelta(seconds=self._settings.claim_s)
            session.execute(delete(OutcomeRow).where(OutcomeRow.review_id == review_id))
            _tell(session, row, outbox.REVIEW_UNDONE)
            audit.add(session, reviewer, "review.undo", row.post_id, **undone)
            return _review(row)

        return await self._database.write(work)

    async def count(self) -> QueueCount:
        query = select(func.count(), func.min(ReviewRow.due_at)).where(ReviewRow.decided_at.is_(None))
        return await self._database.read(lambda session: QueueCount(*session.execute(query).one()))

    def _locked(self, session: Session, review_id: str) -> ReviewRow:
        """The post's lock first, as everywhere; then the row as it is by then."""
        post_id = session.scalar(select(ReviewRow.post_id).where(ReviewRow.review_id == review_id))
        if post_id is None:
            raise ReviewNotFound
        self._database.lock(session, "post", post_id)
        row = session.get(ReviewRow, review_id, with_for_update=True)
        if row is None:
            raise ReviewNotFound
        return row


def _free(limit: int, languages: Sequence[str] | None) -> Select[ReviewRow]:
    free = ReviewRow.claimed_until.is_(None) | (ReviewRow.claimed_until <= leases.now())
    query = select(ReviewRow).where(ReviewRow.decided_at.is_(None), free)
    if languages is not None:
        query = query.where(ReviewRow.primary_language.in_(languages))
    return query.order_by(ReviewRow.due_at, ReviewRow.review_id).limit(limit)


def _outcome_values(session: Session, row: ReviewRow, reviewer: str) -> dict[str, Any]:
    query = select(GateDecisionRow).where(
        GateDecisionRow.post_id == row.post_id, GateDecisionRow.revision == row.revision
    )
    nets = [Net(each.action, each.inclusion_probability, each.verdict_action) for each in session.scalars(query)]
    return {
        "post_id": row.post_id,
        "revision": row.revision,
        "review_id": row.review_id,
        "author_id": row.author_id,
        "language": row.language,
        "content_type": row.content_type,
        "post_created_at": row.post_created_at,
        "nsfw_score": row.nsfw_score,
        "milestone": row.milestone,
        "sources": row.sources,
        "outcome": row.outcome,
        "category": row.category,
        "reviewer": reviewer,
        "decided_at": row.decided_at,
        "weight": 1.0 if "verdict" in row.sources.split() else 1.0 / inclusion_probability(nets),
    }


def _tell(session: Session, row: ReviewRow, type_: str) -> None:
    payload: dict[str, Any] = {"review_id": row.review_id, "post_id": row.post_id, "revision": row.revision}
    if row.decided_at is not None:
        decided_at = row.decided_at.isoformat()
        payload |= {"outcome": row.outcome, "category": row.category, "decided_at": decided_at}
    outbox.add(session, NewEvent(outbox.REVIEWS, type_, row.post_id, payload))


def _review(row: ReviewRow) -> Review:
    return Review(
        review_id=row.review_id,
        post_id=row.post_id,
        revision=row.revision,
        author_id=row.author_id,
        language=row.language,
        content_type=row.content_type,
        post_created_at=row.post_created_at,
        nsfw_score=row.nsfw_score,
        sources=tuple(row.sources.split()),
        milestone=row.milestone,
        created_at=row.created_at,
        due_at=row.due_at,
        claimed_by=row.claimed_by,
        claimed_until=row.claimed_until,
        decided_at=row.decided_at,
        outcome=row.outcome,  # type: ignore[arg-type]
        category=row.category,
        note=row.note,
    )
