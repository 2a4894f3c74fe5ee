"""The reference bank: protected works, and works that never match. The index follows by jobs of the same transaction.

A reference that matches more distinct posts within a window than any true one would is quarantined: it stops acting,
its owner's side is told by an event, and only an admin lifts it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from deployments.similarity.content import Content, Use
from serve_app import content_bytes
from serve_app.posts import Verdict
from serve_app.records import audit, index_jobs, known, leases, outbox
from serve_app.records.engine import Database
from serve_app.records.errors import ReferenceExists, ReferenceNotFound
from serve_app.records.similarity_tables import ReferenceMatchRow, ReferenceRow

log = logging.getLogger(__name__)
Kind = Literal["protected", "negative"]
CHANGE = "references"


@dataclass(frozen=True)
class FloodLimit:
    """More distinct posts than `max_posts` within `window_s` quarantine a reference."""

    max_posts: int = 1000
    window_s: float = 3600.0


@dataclass(frozen=True)
class Reference:
    reference_id: str
    kind: Kind
    owner: str
    policy: str | None
    title: str | None
    enabled: bool
    created_at: datetime
    quarantined_at: datetime | None
    quarantine_reason: str | None

    @property
    def acts(self) -> bool:
        return self.enabled and self.quarantined_at is None


class ReferenceStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, reference: Reference, content: Content, actor: str) -> None:
        """Raises ReferenceExists."""

        def work(session: Session) -> None:
            self._database.lock(session, "reference", reference.reference_id)
            if session.get(ReferenceRow, reference.reference_id) is not None:
                raise ReferenceExists
            row = _row(reference, content)
            session.add(row)
            audit.add(session, actor, "reference.create", reference.reference_id, owner=reference.owner)
            _follow(session, row)

        await self._database.write(work)

    async def find(self, reference_id: str) -> Reference:
        """Raises ReferenceNotFound."""
        return await self._database.read(lambda session: _reference(_found(session, reference_id)))

    async def list(self, after: str = "", limit: int = 100, *, quarantined: bool | None = None) -> list[Reference]:
        """By id; only those that are, or are not, quarantined."""
        query = (
            select(ReferenceRow)
            .where(ReferenceRow.reference_id > after)
            .order_by(ReferenceRow.reference_id)
            .limit(limit)
        )
        if quarantined is not None:
            at = ReferenceRow.quarantined_at
            query = query.where(at.is_not(None) if quarantined else at.is_(None))
        return await self._database.read(lambda session: [_reference(row) for row in session.scalars(query)])

    async def change(
        self,
        reference_id: str,
        actor: str,
        *,
        enabled: bool | None = None,
        quarantined: bool | None = None,
        **kept: Any,
    ) -> Reference:
        """`kept`: policy, title or owner. Raises ReferenceNotFound."""

        def work(session: Session) -> Reference:
            self._database.lock(session, "reference", reference_id)
            row = _found(session, reference_id)
            if enabled is not None:
                row.enabled = enabled
            if quarantined is False and row.quarantined_at is not None:
                row.quarantined_at, row.quarantine_reason = None, None
                session.execute(delete(ReferenceMatchRow).where(ReferenceMatchRow.reference_id == reference_id))
            for name, value in kept.items():
                setattr(row, name, value)
            row.changed_at = leases.now()
            changes = {"enabled": enabled, "quarantined": quarantined, **kept}
            audit.add(session, actor, "reference.change", reference_id, **_given(changes))
            _follow(session, row)
            return _reference(row)

        return await self._database.write(work)

    async def delete(self, reference_id: str, actor: str) -> None:
        """Raises ReferenceNotFound."""

        def work(session: Session) -> None:
            self._database.lock(session, "reference", reference_id)
            row = _found(session, reference_id)
            index_jobs.add(session, "remove", row.kind, reference_id)
            known.note_change(session, CHANGE)
            session.execute(delete(ReferenceMatchRow).where(ReferenceMatchRow.reference_id == reference_id))
            session.delete(row)
            audit.add(session, actor, "reference.delete", reference_id)

        await self._database.write(work)

    async def note_past(self, reference_id: str, post_ids: Collection[str], limit: FloodLimit) -> Reference:
        """Count the past posts that a new reference matches, as those to come are. Raises ReferenceNotFound."""

        def work(session: Session) -> Reference:
            self._database.lock(session, "reference", reference_id)
            row = _found(session, reference_id)
            if row.kind == "protected" and row.quarantined_at is None:
                _note(session, row, post_ids, limit)
            return _reference(row)

        return await self._database.write(work)

    async def forget_matches(self, window_s: float) -> None:
        """Those too old to count."""
        old = delete(ReferenceMatchRow).where(ReferenceMatchRow.matched_at < leases.now() - timedelta(seconds=window_s))
        await self._database.write(lambda session: session.execute(old) and None)


def note_matches(database: Database, session: Session, verdict: Verdict, limit: FloodLimit) -> None:
    """Count the verdict's protected matches, and quarantine a reference that matches too many posts."""
    for reference_id in sorted({match.id for match in verdict.matches if match.use == Use.PROTECTED}):
        database.lock(session, "reference", reference_id)
        row = session.get(ReferenceRow, reference_id)
        if row is not None and row.quarantined_at is None:
            _note(session, row, [verdict.post_id], limit)


def _note(session: Session, row: ReferenceRow, post_ids: Collection[str], limit: FloodLimit) -> None:
    _count(session, row.reference_id, post_ids)
    since = leases.now() - timedelta(seconds=limit.window_s)
    counted = select(func.count()).where(
        ReferenceMatchRow.reference_id == row.reference_id, ReferenceMatchRow.matched_at >= since
    )
    posts = session.scalar(counted) or 0
    if posts > limit.max_posts:
        _quarantine(session, row, f"It matched {posts} posts within {limit.window_s:.0f} s.")


def _count(session: Session, reference_id: str, post_ids: Collection[str]) -> None:
    insert: Any = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    at = leases.now()
    values = [{"reference_id": reference_id, "post_id": post_id, "matched_at": at} for post_id in sorted(post_ids)]
    if values:
        session.execute(insert(ReferenceMatchRow).on_conflict_do_nothing(), values)


def _quarantine(session: Session, row: ReferenceRow, reason: str) -> None:
    at = leases.now()
    row.quarantined_at, row.quarantine_reason, row.changed_at = at, reason, at
    log.warning("reference %s is quarantined: %s", row.reference_id, reason)
    audit.add(session, "flood limit", "reference.quarantine", row.reference_id, reason=reason)
    payload = {"reference_id": row.reference_id, "owner": row.owner, "reason": reason, "at": at.isoformat()}
    event = outbox.NewEvent(outbox.REFERENCES, outbox.REFERENCE_QUARANTINED, row.reference_id, payload)
    outbox.add(session, event)
    _follow(session, row)


def _follow(session: Session, row: ReferenceRow) -> None:
    """The index holds exactly the references that act."""
    known.note_change(session, CHANGE)
    if row.enabled and row.quarantined_at is None:
        index_jobs.add(session, "index", row.kind, row.reference_id, content=content_of(row))
    else:
        index_jobs.add(session, "remove", row.kind, row.reference_id)


def content_of(row: ReferenceRow) -> Content:
    content = content_bytes.from_bytes(row.content)
    shown = {"owner": row.owner, "policy": row.policy, "title": row.title}
    return replace(content, attributes={**content.attributes, **_given(shown)})


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _found(session: Session, reference_id: str) -> ReferenceRow:
    row = session.get(ReferenceRow, reference_id)
    if row is None:
        raise ReferenceNotFound
    return row


def _row(reference: Reference, content: Content) -> ReferenceRow:
    return ReferenceRow(
        reference_id=reference.reference_id,
        kind=reference.kind,
        owner=reference.owner,
        policy=reference.policy,
        title=reference.title,
        enabled=reference.enabled,
        created_at=reference.created_at,
        changed_at=reference.created_at,
        quarantined_at=None,
        quarantine_reason=None,
        content=content_bytes.to_bytes(content),
    )


def _reference(row: ReferenceRow) -> Reference:
    return Reference(
        reference_id=row.reference_id,
        kind=row.kind,  # type: ignore[arg-type]
        owner=row.owner,
        policy=row.policy,
        title=row.title,
        enabled=row.enabled,
        created_at=row.created_at,
        quarantined_at=row.quarantined_at,
        quarantine_reason=row.quarantine_reason,
    )
