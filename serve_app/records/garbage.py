"""Files that no post may need any more: noted here, then deleted by a sweep, and again until they are gone.

The sweep marks a file as being deleted while it holds the file's media lock and no post refers to it; it then deletes
outside of any transaction, so that a slow store keeps no writer waiting. Acceptance takes the same lock and refuses a
file with that mark for as long as it lasts: a file is never deleted under a post that was just accepted with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from deployments.runtime.errors import NodeUnavailable
from serve_app.records import leases
from serve_app.records.engine import Database
from serve_app.records.event_tables import DeadLetterRow
from serve_app.records.similarity_tables import LegalHoldRow
from serve_app.records.tables import JobRow, MediaGarbageRow, PostRow

DELETE_TIMEOUT_S = 10.0
MARK_S = 20.0  # longer than any delete that was begun may still take effect
BATCH = 500


def add(session: Session, *digests: str | None) -> None:
    """Joins the caller's transaction. Idempotent, also between transactions that run at the same time."""
    insert: Any = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    at = leases.now()
    for digest in sorted({digest for digest in digests if digest is not None}):  # in order: no two can deadlock
        session.execute(insert(MediaGarbageRow).values(sha256=digest, since=at).on_conflict_do_nothing())


def is_being_deleted(session: Session, sha256: str | None, at: datetime) -> bool:
    row = None if sha256 is None else session.get(MediaGarbageRow, sha256)
    return row is not None and row.deleting_until is not None and row.deleting_until > at


class GarbageStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, sha256: str) -> None:
        """The file was stored for a post that was then refused."""
        await self._database.write(lambda session: add(session, sha256))

    async def add_unreferenced(self, digests: Collection[str]) -> int:
        """Those of `digests` that no post refers to; returns how many."""

        def work(session: Session) -> int:
            ours = select(PostRow.media_sha256).where(PostRow.media_sha256.in_(digests))
            dead = select(DeadLetterRow.value_sha256).where(DeadLetterRow.value_sha256.in_(digests))
            orphans = set(digests) - set(session.scalars(ours)) - set(session.scalars(dead))
            add(session, *orphans)
            return len(orphans)

        return await self._database.write(work)

    async def expire(self, retention_s: float) -> int:
        """Part posts from their media that were finished longer ago than that; returns how many."""

        def work(session: Session) -> int:
            rows = list(session.scalars(finished))
            add(session, *(row.media_sha256 for row in rows))
            for row in rows:
                row.media_sha256 = None
            return len(rows)

        finished = (
            select(PostRow)
            .join(JobRow, (JobRow.post_id == PostRow.post_id) & (JobRow.revision == PostRow.revision))
            .where(PostRow.media_sha256.is_not(None), JobRow.status.in_(("done", "failed")))
            .where(JobRow.finished_at < leases.now() - timedelta(seconds=retention_s))
            .where(PostRow.post_id.not_in(select(LegalHoldRow.post_id)))
            .limit(BATCH)
            .with_for_update(skip_locked=True, of=JobRow)
        )
        expired = batch = await self._database.write(work)
        while batch == BATCH:
            batch = await self._database.write(work)
            expired += batch
        return expired

    async def sweep(self, delete_file: Callable[[str], Awaitable[None]]) -> int:
        """Delete the noted files that no post needs; returns how many it looked at. Raises what `delete_file` does."""
        digests = await self._database.read(lambda session: list(session.scalars(select(MediaGarbageRow.sha256))))
        for digest in digests:
            if await self._database.write(lambda session, digest=digest: self._mark(session, digest)):  # type: ignore[misc]
                await self._delete(digest, delete_file)
        return len(digests)

    def _mark(self, session: Session, digest: str) -> bool:
        """Whether the file is now this sweep's to delete."""
        self._database.lock(session, "media", digest)
        at = leases.now()
        row = session.get(MediaGarbageRow, digest)
        if row is None or is_being_deleted(session, digest, at):
            return False
        needed = session.scalar(select(func.count()).where(PostRow.media_sha256 == digest))
        held = session.scalar(select(func.count()).where(LegalHoldRow.media_sha256 == digest))
        dead = session.scalar(select(func.count()).where(DeadLetterRow.value_sha256 == digest))
        if needed or held or dead:
            session.delete(row)
            return False
        row.deleting_until = at + timedelta(seconds=MARK_S)
        return True

    async def _delete(self, digest: str, delete_file: Callable[[str], Awaitable[None]]) -> None:
        """Where it is cancelled or takes too long, the mark stays to its end: the delete may still take effect."""
        try:
            async with asyncio.timeout(DELETE_TIMEOUT_S) as timeout:
                await delete_file(digest)
        except Exception as error:
            if timeout.expired():
                raise NodeUnavailable("The media store does not answer.") from error
            await self._database.write(lambda session: self._unmark(session, digest))
            raise
        row = delete(MediaGarbageRow).where(MediaGarbageRow.sha256 == digest)
        await self._database.write(lambda session: session.execute(row) and None)

    @staticmethod
    def _unmark(session: Session, digest: str) -> None:
        row = session.get(MediaGarbageRow, digest)
        if row is not None:
            row.deleting_until = None
