"""The queue of accepted posts, for workers: claim -> renew -> end_attempt or give_back. (Success is
`PostStore.conclude`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Delete, Select, and_, delete, func, or_, select
from sqlalchemy.orm import Session

from serve_app.records import leases
from serve_app.records.engine import Database
from serve_app.records.tables import FAILED, UNFINISHED, IdempotencyRow, JobRow, PostRow
from serve_app.records.values import Lease, QueueState


class JobStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, lease_s: float, limit: int = 1) -> list[Lease]:
        """Up to `limit` jobs that wait or whose worker gave no sign of life, oldest post first; durable from now on."""

        def work(session: Session) -> list[Lease]:
            at = leases.now()
            rows = session.execute(_claimable(at, limit).with_for_update(skip_locked=True, of=JobRow))
            return [_take(job, post, lease_s, at) for job, post in rows.all()]

        waiting = _claimable(leases.now(), 1)
        if await self._database.read(lambda session: session.execute(waiting).first()) is None:
            return []  # an empty queue costs no writer's turn
        return await self._database.write(work)

    async def renew(self, lease: Lease, lease_s: float) -> bool:
        """False where the lease is another worker's by now."""

        def work(session: Session) -> bool:
            job = self._held(session, lease)
            if job is None:
                return False
            job.lease_until = leases.now() + timedelta(seconds=lease_s)
            return True

        return await self._database.write(work)

    async def give_back(self, lease: Lease) -> None:
        """The attempt was cut short by its own worker and does not count. A lost lease changes nothing."""

        def work(session: Session) -> None:
            job = self._held(session, lease)
            if job is not None:
                leases.retry(job, None, leases.now(), counts=False)

        await self._database.write(work)

    async def end_attempt(
        self, lease: Lease, error: Mapping[str, Any], retry_in_s: float | None = None, *, counts: bool = True
    ) -> None:
        """The attempt ended in `error`: a durable job waits `retry_in_s` seconds for the next one.

        None, or a job that the queue does not answer for, fails. Either way the Idempotency-Keys of requests that
        wait for the attempt are free again. `counts` False: one attempt more. A lost lease changes nothing.
        """

        def work(session: Session) -> None:
            job = self._held(session, lease)
            if job is None:
                return
            at = leases.now()
            if retry_in_s is None or not job.durable:
                leases.finish(job, "failed", error, at)
                session.execute(_keys_of(job))
            else:
                leases.retry(job, error, at + timedelta(seconds=retry_in_s), counts=counts)
                session.execute(_keys_of(job).where(IdempotencyRow.completed_at.is_(None)))

        await self._database.write(work)

    async def state(self) -> QueueState:
        waiting = select(func.count(), func.min(JobRow.created_at), func.min(JobRow.post_created_at)).where(UNFINISHED)

        def work(session: Session) -> QueueState:
            count, oldest, oldest_post = session.execute(waiting.select_from(JobRow)).one()
            failed = session.scalar(select(func.count()).select_from(JobRow).where(FAILED))
            return QueueState(count, failed or 0, oldest, oldest_post)

        return await self._database.read(work)

    def _held(self, session: Session, lease: Lease) -> JobRow | None:
        self._database.lock(session, "post", lease.post.post_id)
        job = session.get(JobRow, (lease.post.post_id, lease.post.revision), with_for_update=True)
        return job if leases.holds(job, lease) else None


def _claimable(at: datetime, limit: int) -> Select[JobRow, PostRow]:
    waiting: ColumnElement[bool] = and_(JobRow.status == "pending", JobRow.available_at <= at)
    abandoned: ColumnElement[bool] = and_(JobRow.status == "running", JobRow.lease_until <= at)
    return (
        select(JobRow, PostRow)
        .join(PostRow, (JobRow.post_id == PostRow.post_id) & (JobRow.revision == PostRow.revision))
        .where(UNFINISHED, or_(waiting, abandoned))
        .order_by(JobRow.post_created_at, JobRow.created_at)
        .limit(limit)
    )


def _take(job: JobRow, post: PostRow, lease_s: float, at: datetime) -> Lease:
    job.durable = True
    return leases.claim(job, post, lease_s, at)


def _keys_of(job: JobRow) -> Delete:
    return delete(IdempotencyRow).where(IdempotencyRow.post_id == job.post_id, IdempotencyRow.revision == job.revision)
