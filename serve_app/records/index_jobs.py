"""What the index is still to be told: written with its cause in one transaction, done soon after, once or more.

One row for each item: the last word on it. A worker claims a row by moving its `available_at` past the time it may
take; a row that was replaced meanwhile has another token, so that finishing the old word leaves the new one standing.
A word that is replaced while a worker has it waits until that worker is done, or counts as dead. One that only seemed
dead is told when it is done after all that it was overtaken: what it wrote may be older than what stands.
A word that the index refuses, or that cannot be read, stays as failed, with its reason, until another is said.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.orm import Session

from deployments.similarity.content import Content
from serve_app import content_bytes
from serve_app.records import leases
from serve_app.records.bulk import insert_all
from serve_app.records.engine import Database
from serve_app.records.similarity_tables import IndexJobRow
from serve_app.similarity import IndexJob

log = logging.getLogger(__name__)
_BUSY = "busy"  # stands in `error` while a worker has the row
_UNREADABLE = "unreadable: "
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)  # `available_at` of what failed


@dataclass(frozen=True)
class Word:
    """What the index is to be told of one item."""

    op: str  # index, copy, remove
    bank: str
    item_id: str
    revision: int = 0
    content: Content | None = None
    source_id: str | None = None

    @property
    def item(self) -> tuple[str, str]:
        return str(self.bank), self.item_id


def add(
    session: Session,
    op: str,
    bank: str,
    item_id: str,
    *,
    revision: int = 0,
    content: Content | None = None,
    source_id: str | None = None,
) -> None:
    """Joins the caller's transaction, which holds the lock on the post or reference."""
    add_all(session, [Word(op, bank, item_id, revision, content, source_id)])


def add_all(session: Session, words: Sequence[Word]) -> None:
    """The last word on each item counts. Joins the caller's transaction, which holds the locks on all of them."""
    last = {word.item: word for word in words}
    standing = {(row.bank, row.item_id): row for row in session.scalars(_rows(list(last)))} if last else {}
    at = leases.now()
    for item, word in last.items():
        if (row := standing.get(item)) is not None:
            if row.error != _BUSY:
                row.available_at, row.error = at, None
            for name, value in _values(word, at).items():
                setattr(row, name, value)
    fresh = [
        _values(word, at) | {"bank": item[0], "item_id": item[1], "available_at": at, "error": None}
        for item, word in last.items()
        if item not in standing
    ]
    insert_all(session, IndexJobRow, fresh)


def _rows(items: Sequence[tuple[str, str]]) -> Select[IndexJobRow]:
    """Locked in the order of their keys, as everywhere: two transactions never wait for each other."""
    return (
        select(IndexJobRow)
        .where(tuple_(IndexJobRow.bank, IndexJobRow.item_id).in_(items))
        .order_by(IndexJobRow.bank, IndexJobRow.item_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


def _values(word: Word, at: datetime) -> dict[str, Any]:
    return {
        "token": secrets.token_hex(16),
        "op": word.op,
        "revision": word.revision,
        "source_id": word.source_id,
        "content": None if word.content is None else content_bytes.to_bytes(word.content),
        "created_at": at,
        "attempts": 0,
    }


class IndexJobStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, limit: int, busy_s: float) -> list[IndexJob]:
        """The oldest jobs that wait, or whose worker took longer than `busy_s`. One that cannot be read fails alone."""

        def work(session: Session) -> list[IndexJob]:
            rows = list(session.scalars(_due(limit).with_for_update(skip_locked=True)))
            for row in rows:
                row.available_at = leases.now() + timedelta(seconds=busy_s)
                row.attempts, row.error = row.attempts + 1, _BUSY
            return [job for row in rows if (job := _read(row)) is not None]

        if await self._database.read(lambda session: session.scalars(_due(1)).first()) is None:
            return []  # an empty queue costs no writer's turn
        return await self._database.write(work)

    async def claim_one(self, bank: str, item_id: str, busy_s: float) -> IndexJob | None:
        """This one before its turn; None where there is none, or another worker has it."""

        def work(session: Session) -> IndexJob | None:
            row = session.get(IndexJobRow, (bank, item_id), with_for_update=True)
            if row is None or row.available_at > leases.now():
                return None
            row.available_at = leases.now() + timedelta(seconds=busy_s)
            row.attempts, row.error = row.attempts + 1, _BUSY
            return _read(row)

        return await self._database.write(work)

    async def is_told(self, bank: str, item_id: str) -> bool:
        """No job is about it: the index has heard of it."""
        return await self._database.read(lambda session: session.get(IndexJobRow, (bank, item_id)) is None)

    async def finish(self, jobs: Sequence[IndexJob]) -> list[IndexJob]:
        """Done: but for those that were replaced meanwhile, which are due now. Those that were overtaken: another
        worker did the same or a later word, before this one or after.
        """

        def work(session: Session) -> list[IndexJob]:
            overtaken = []
            for job in sorted(jobs, key=lambda job: (job.bank, job.id)):
                row = session.get(IndexJobRow, (job.bank, job.id), with_for_update=True)
                if row is None:
                    overtaken.append(job)
                elif row.token == job.token:
                    session.delete(row)
                else:
                    row.available_at, row.error = leases.now(), None
            return overtaken

        return await self._database.write(work) if jobs else []

    async def retry(self, job: IndexJob, reason: str, pause_s: float) -> bool:
        """False where it was overtaken."""
        return await self._put_off(job, reason, leases.now() + timedelta(seconds=pause_s))

    async def fail(self, job: IndexJob, reason: str) -> bool:
        """It is not tried again until another word is said. False where it was overtaken."""
        return await self._put_off(job, reason, _NEVER)

    async def _put_off(self, job: IndexJob, reason: str, until: datetime) -> bool:
        def work(session: Session) -> bool:
            row = session.get(IndexJobRow, (job.bank, job.id), with_for_update=True)
            if row is not None:
                same = row.token == job.token
                row.available_at, row.error = (until, reason) if same else (leases.now(), None)
            return row is not None

        return await self._database.write(work)

    async def waiting(self) -> tuple[int, datetime | None]:
        """How many, and since when the oldest does."""
        query = select(func.count(), func.min(IndexJobRow.created_at)).where(IndexJobRow.available_at < _NEVER)

        def work(session: Session) -> tuple[int, datetime | None]:
            count, oldest = session.execute(query).one()
            return count, oldest

        return await self._database.read(work)

    async def failed(self) -> int:
        """Those that are not tried again."""
        query = select(func.count()).where(IndexJobRow.available_at >= _NEVER)
        return await self._database.read(lambda session: session.scalar(query) or 0)


def may_be_told_again(row: IndexJobRow | None) -> bool:
    """Nothing is said about it, or what was said cannot be read. What the index refused it would refuse again."""
    return row is None or (row.error or "").startswith(_UNREADABLE)


def _due(limit: int) -> Select[IndexJobRow]:
    return (
        select(IndexJobRow)
        .where(IndexJobRow.available_at <= leases.now())
        .order_by(IndexJobRow.available_at)
        .limit(limit)
    )


def _read(row: IndexJobRow) -> IndexJob | None:
    try:
        return _job(row)
    except ValueError as error:
        log.error("index job %s of %s %r cannot be read: %s", row.op, row.bank, row.item_id, error)
        row.available_at, row.error = _NEVER, f"{_UNREADABLE}{error}"
        return None


def _job(row: IndexJobRow) -> IndexJob:
    content = None if row.content is None else content_bytes.from_bytes(row.content)
    return IndexJob(row.bank, row.item_id, row.op, row.token, row.attempts, row.created_at, content, row.source_id)
