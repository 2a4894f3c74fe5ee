"""Erasing a post: its rows in one transaction, its files right after, and again until they are gone.

A file is deleted only while its media lock is held and no post refers to it; acceptance takes the same lock, so a
file is never deleted under a post that was just accepted with the same media.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from serve_app.records import audit, leases, outbox
from serve_app.records.engine import Database
from serve_app.records.errors import PostNotFound
from serve_app.records.tables import ErasureRow, IdempotencyRow, JobRow, MediaGarbageRow, PostRow, VerdictRow


class ErasureStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def erase(self, post_id: str, actor: str) -> None:
        """All revisions, verdicts, jobs and keys of the post. Idempotent. Raises PostNotFound."""

        def work(session: Session) -> None:
            self._database.lock(session, "post", post_id)
            if session.get(ErasureRow, post_id) is None:
                _erase(session, post_id, actor)

        await self._database.write(work)

    async def discard(self, sha256: str) -> None:
        """The file was stored for a post that was then refused; the next sweep deletes it unless a post needs it."""

        def work(session: Session) -> None:
            session.merge(MediaGarbageRow(sha256=sha256, since=leases.now()))

        await self._database.write(work)

    async def sweep_media(self, delete_file: Callable[[str], Awaitable[None]]) -> int:
        """Delete the files of erased posts that no other post needs; returns how many were looked at."""

        def sweep(session: Session, digest: str) -> None:
            self._database.lock(session, "media", digest)
            if not session.scalar(select(func.count()).where(PostRow.media_sha256 == digest)):
                self._database.wait(session, delete_file(digest))
            session.execute(delete(MediaGarbageRow).where(MediaGarbageRow.sha256 == digest))

        digests = await self._database.read(lambda session: list(session.scalars(select(MediaGarbageRow.sha256))))
        for digest in digests:
            await self._database.write(lambda session, digest=digest: sweep(session, digest))  # type: ignore[misc]
        return len(digests)


def _erase(session: Session, post_id: str, actor: str) -> None:
    revisions = session.execute(_revisions(post_id)).all()
    if not revisions:
        raise PostNotFound
    for table in (IdempotencyRow, VerdictRow, JobRow, PostRow):
        session.execute(delete(table).where(table.post_id == post_id))
    outbox.forget_verdicts(session, post_id)
    at = leases.now()
    for digest in {row.media_sha256 for row in revisions} - {None}:
        session.merge(MediaGarbageRow(sha256=digest, since=at))
    session.add(ErasureRow(post_id=post_id, erased_at=at))
    outbox.add(session, outbox.ERASURES, post_id, {"post_id": post_id, "erased_at": at.isoformat()})
    audit.add(session, actor, "post.erase", post_id, revisions=sorted(row.revision for row in revisions))


def _revisions(post_id: str) -> Select[int, str | None]:
    return select(PostRow.revision, PostRow.media_sha256).where(PostRow.post_id == post_id)
