"""Posts and their verdicts: accept -> conclude -> find. Each is one transaction, serialised per post.

Acceptance writes post, job and Idempotency-Key together; conclusion writes verdict, outbox event and the key's
completion together. What is acknowledged is therefore always whole.
"""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from deployments.runtime.errors import ParakhError
from deployments.similarity.content import Content
from serve_app.gate_settings import QueueSettings
from serve_app.posts import Verdict
from serve_app.records import garbage, index_jobs, leases, outbox, post_rows, review_queue
from serve_app.records.engine import Database
from serve_app.records.errors import (
    IdempotencyInProgress,
    LeaseLost,
    MediaBeingDeleted,
    PostErased,
    PostNotFound,
)
from serve_app.records.references import FloodLimit
from serve_app.records.tables import ErasureRow, IdempotencyRow, JobRow, PostRow, VerdictRow
from serve_app.records.values import Lease, PostState, Submission, Ticket


class PostStore:
    def __init__(self, database: Database, flood: FloodLimit, queue: QueueSettings) -> None:
        self._database, self._flood, self._queue = database, flood, queue

    async def accept(
        self,
        submission: Submission,
        *,
        lease_s: float | None,
        policy_version: str | None = None,
        key_ttl_s: float = 86_400.0,
    ) -> Ticket:
        """Write the post and its job, or find them.

        `lease_s`: the caller wants to judge the post itself, now; None leaves it to a worker. A stored verdict
        counts only under `policy_version` (None: under any). Raises PostErased, RevisionConflict,
        IdempotencyConflict, IdempotencyInProgress, MediaBeingDeleted.
        """
        post = submission.post

        def work(session: Session) -> Ticket:
            self._lock(session, submission)
            if session.get(ErasureRow, post.post_id) is not None:
                raise PostErased
            at = leases.now()
            if garbage.is_being_deleted(session, submission.media_sha256, at):
                raise MediaBeingDeleted
            known_key = post_rows.known_key(session, submission, at)
            row, job, replayed = post_rows.store(session, submission, at)
            verdict = post_rows.verdict_of(session, post.post_id, post.revision, policy_version) if replayed else None
            if submission.idempotency_key is not None and not known_key:
                session.add(post_rows.key_row(submission, at, key_ttl_s, done=verdict is not None or lease_s is None))
            if verdict is not None:
                return Ticket("decided", replayed, verdict=verdict)
            if leases.is_running(job, at):
                if known_key and lease_s is not None:
                    raise IdempotencyInProgress
                job.durable = job.durable or lease_s is None
                return Ticket("running", replayed)
            if job.status in ("done", "failed"):
                post_rows.start_over(session, row, job, submission, at)
            if lease_s is None:
                job.durable = True
                return Ticket("pending", replayed)
            return Ticket("leased", replayed, lease=leases.claim(job, row, lease_s, at))

        return await self._database.write(work)

    async def conclude(
        self, lease: Lease, verdict: Verdict, content: Content | None = None, copy_of: str | None = None
    ) -> Verdict:
        """Store the verdict, its event, what the index is to be told and the completion of its keys.

        `content`: what is indexed, with the vectors of `copy_of` where that is given. Returns the verdict that stands:
        where another worker was faster, that is its verdict. Raises LeaseLost, PostErased.
        """
        post_id, revision = lease.post.post_id, lease.post.revision

        def work(session: Session) -> Verdict:
            self._database.lock(session, "post", post_id)
            job = session.get(JobRow, (post_id, revision), with_for_update=True)
            stored = post_rows.verdict_of(session, post_id, revision, verdict.decision.policy_version)
            if job is None or not leases.holds(job, lease):
                if stored is None:
                    raise _why_lost(session, post_id)
                return stored
            if stored is None:
                session.add(VerdictRow(**post_rows.verdict_values(verdict, indexed=content is not None)))
                outbox.add(session, outbox.judged(verdict))
                post_rows.note_effects(self._database, session, self._flood, verdict, lease.media_sha256)
                review_queue.verdicts_stored(session, self._queue, [(lease.post, verdict)])
                newest = session.scalar(select(func.max(PostRow.revision)).where(PostRow.post_id == post_id))
                word = post_rows.index_word(verdict, newest, content, copy_of)
                index_jobs.add_all(session, [] if word is None else [word])
            leases.finish(job, "done", None, leases.now())
            post_rows.complete_keys(session, post_id, revision)
            return stored or verdict

        return await self._database.write(work)

    async def reused(self) -> int:
        """Verdicts that no encoder had to run for."""
        query = select(func.count()).where(VerdictRow.reused)
        return await self._database.read(lambda session: session.scalar(query) or 0)

    async def needs_media(self, submission: Submission) -> bool:
        """Whether acceptance would have to bring the media: the post is new, or failed, or its media is gone."""
        identity = (submission.post.post_id, submission.post.revision)

        def work(session: Session) -> bool:
            found = session.execute(post_rows.post_and_job(*identity)).first()
            if found is None or found[0].fingerprint != submission.fingerprint:
                return True
            row, job = found
            return job.status == "failed" or (job.status == "done" and row.media_sha256 is None)

        return await self._database.read(work)

    async def find(self, post_id: str, revision: int | None = None) -> PostState:
        """The given or the newest revision, with its newest verdict. Raises PostNotFound."""

        def work(session: Session) -> PostState:
            found = session.execute(post_rows.post_and_job(post_id, revision)).first()
            if found is None:
                raise PostNotFound
            post, job = found
            return post_rows.state_of(post, job, post_rows.verdict_of(session, post_id, post.revision, None))

        return await self._database.read(work)

    async def purge_keys(self) -> None:
        """Forget Idempotency-Keys whose time is over."""
        over = delete(IdempotencyRow).where(IdempotencyRow.expires_at < leases.now())
        await self._database.write(lambda session: session.execute(over) and None)

    def _lock(self, session: Session, submission: Submission) -> None:
        self._database.lock(session, "post", submission.post.post_id)
        if submission.idempotency_key is not None:
            self._database.lock(session, "key", f"{submission.owner}:{submission.idempotency_key}")
        if submission.media_sha256 is not None:
            self._database.lock(session, "media", submission.media_sha256)


def _why_lost(session: Session, post_id: str) -> ParakhError:
    return PostErased() if session.get(ErasureRow, post_id) is not None else LeaseLost()
