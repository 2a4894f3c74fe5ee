"""Erasing a post: its rows in one transaction, in which its files are noted as garbage for the sweep right after."""

from __future__ import annotations

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from deployments.similarity.content import Bank
from serve_app.records import audit, dead_letters, garbage, holds, index_jobs, leases, outbox
from serve_app.records.engine import Database
from serve_app.records.errors import PostNotFound, UnderLegalHold
from serve_app.records.event_tables import ViewCountRow
from serve_app.records.gate_tables import GateDecisionRow, GateJobRow, OutcomeRow, ReviewRow
from serve_app.records.similarity_tables import ExternalItemRow, ReferenceMatchRow
from serve_app.records.tables import ErasureRow, IdempotencyRow, JobRow, PostRow, VerdictRow
from serve_app.records.values import Subject


class ErasureStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def erase(self, post_id: str, actor: str) -> None:
        """All revisions, verdicts, jobs and keys of the post, its place in the index, and dead letters about it.

        Idempotent. A dead letter alone is enough to erase. Raises PostNotFound, UnderLegalHold.
        """

        def work(session: Session) -> bool:
            self._database.lock(session, "post", post_id)
            if holds.stands(session, post_id):
                audit.add(session, actor, "post.erase_refused", post_id, reason="legal hold")
                return False
            letters = dead_letters.forget(session, Subject("post", post_id))
            if session.get(ErasureRow, post_id) is None:
                _erase(self._database, session, post_id, actor, letters)
            return True

        if not await self._database.write(work):  # raised only here, or the line in the audit would be rolled back
            raise UnderLegalHold


def _erase(database: Database, session: Session, post_id: str, actor: str, letters: int) -> None:
    revisions = session.execute(_revisions(post_id)).all()
    if not revisions and not letters:
        raise PostNotFound
    for table in (IdempotencyRow, VerdictRow, JobRow, PostRow):
        session.execute(delete(table).where(table.post_id == post_id))
    session.execute(delete(ReferenceMatchRow).where(ReferenceMatchRow.post_id == post_id))
    ours = (ExternalItemRow.bank == Bank.POSTS) & (ExternalItemRow.item_id == post_id)
    session.execute(delete(ExternalItemRow).where(ours))  # or a restored backup would keep it
    for known in (ViewCountRow, GateJobRow, GateDecisionRow, ReviewRow, OutcomeRow):
        session.execute(delete(known).where(known.post_id == post_id))
    outbox.forget(session, [post_id], outbox.VERDICTS, outbox.MILESTONES, outbox.GATE, outbox.REVIEWS)
    index_jobs.add(session, "remove", Bank.POSTS, post_id)
    at = leases.now()
    digests = sorted({row.media_sha256 for row in revisions if row.media_sha256 is not None})
    for digest in digests:
        database.lock(session, "media", digest)  # or a sweep that still counts this post forgets the file
    garbage.add(session, *digests)
    session.add(ErasureRow(post_id=post_id, erased_at=at))
    told = {"post_id": post_id, "erased_at": at.isoformat()}
    outbox.add(session, outbox.NewEvent(outbox.ERASURES, outbox.POST_ERASED, post_id, told))
    audit.add(session, actor, "post.erase", post_id, revisions=sorted(row.revision for row in revisions))


def _revisions(post_id: str) -> Select[int, str | None]:
    return select(PostRow.revision, PostRow.media_sha256).where(PostRow.post_id == post_id)
