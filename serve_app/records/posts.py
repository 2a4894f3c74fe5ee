"""Posts and their verdicts: accept -> conclude -> find. Each is one transaction, serialised per post.

Acceptance writes post, job and Idempotency-Key together; conclusion writes verdict, outbox event and the key's
completion together. What is acknowledged is therefore always whole.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.orm import Session

from deployments.runtime.errors import ParakhError
from deployments.similarity.content import Bank, Content
from serve_app.posts import Verdict
from serve_app.records import garbage, holds, index_jobs, leases, outbox, references
from serve_app.records.engine import Database
from serve_app.records.errors import (
    IdempotencyConflict,
    IdempotencyInProgress,
    LeaseLost,
    MediaBeingDeleted,
    PostErased,
    PostNotFound,
    RevisionConflict,
)
from serve_app.records.references import FloodLimit
from serve_app.records.tables import ErasureRow, IdempotencyRow, JobRow, PostRow, VerdictRow
from serve_app.records.values import Lease, PostState, Submission, Ticket


class PostStore:
    def __init__(self, database: Database, flood: FloodLimit = FloodLimit()) -> None:  # noqa: B008
        self._database = database
        self._flood = flood

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
            known_key = _known_key(session, submission, at)
            row, job, replayed = _store(session, submission, at)
            verdict = _verdict(session, post.post_id, post.revision, policy_version) if replayed else None
            if submission.idempotency_key is not None and not known_key:
                session.add(_key_row(submission, at, key_ttl_s, done=verdict is not None or lease_s is None))
            if verdict is not None:
                return Ticket("decided", replayed, verdict=verdict)
            if leases.is_running(job, at):
                if known_key and lease_s is not None:
                    raise IdempotencyInProgress
                job.durable = job.durable or lease_s is None
                return Ticket("running", replayed)
            if job.status in ("done", "failed"):
                _start_over(session, row, job, submission, at)
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
            stored = _verdict(session, post_id, revision, verdict.decision.policy_version)
            if job is None or not leases.holds(job, lease):
                if stored is None:
                    raise _why_lost(session, post_id)
                return stored
            if stored is None:
                session.add(_verdict_row(verdict, indexed=content is not None))
                outbox.add(session, outbox.VERDICTS, post_id, outbox.verdict_payload(verdict))
                self._consequences(session, lease, verdict, content, copy_of)
            leases.finish(job, "done", None, leases.now())
            _complete_keys(session, post_id, revision)
            return stored or verdict

        return await self._database.write(work)

    def _consequences(
        self, session: Session, lease: Lease, verdict: Verdict, content: Content | None, copy_of: str | None
    ) -> None:
        if verdict.decision.legal_hold:
            holds.put(session, verdict, lease.media_sha256)
        references.note_matches(self._database, session, verdict, self._flood)
        newest = session.scalar(select(func.max(PostRow.revision)).where(PostRow.post_id == verdict.post_id))
        if newest != verdict.revision:
            return  # the index has one entry a post: that of the newest revision
        if content is not None:
            op = "copy" if copy_of is not None else "index"
            index_jobs.add(
                session,
                op,
                Bank.POSTS,
                verdict.post_id,
                revision=verdict.revision,
                content=content,
                source_id=copy_of,
            )
        elif verdict.revision > 0:
            index_jobs.add(session, "remove", Bank.POSTS, verdict.post_id, revision=verdict.revision)

    async def reused(self) -> int:
        """Verdicts that no encoder had to run for."""
        query = select(func.count()).where(VerdictRow.reused)
        return await self._database.read(lambda session: session.scalar(query) or 0)

    async def needs_media(self, submission: Submission) -> bool:
        """Whether acceptance would have to bring the media: the post is new, or failed, or its media is gone."""
        identity = (submission.post.post_id, submission.post.revision)

        def work(session: Session) -> bool:
            found = (session.execute(_post_and_job(*identity))).first()
            if found is None or found[0].fingerprint != submission.fingerprint:
                return True
            row, job = found
            return job.status == "failed" or (job.status == "done" and row.media_sha256 is None)

        return await self._database.read(work)

    async def find(self, post_id: str, revision: int | None = None) -> PostState:
        """The given or the newest revision, with its newest verdict. Raises PostNotFound."""

        def work(session: Session) -> PostState:
            found = (session.execute(_post_and_job(post_id, revision))).first()
            if found is None:
                raise PostNotFound
            post, job = found
            return _state(post, job, _verdict(session, post_id, post.revision, None))

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


def _known_key(session: Session, submission: Submission, at: datetime) -> bool:
    if submission.idempotency_key is None:
        return False
    row = session.get(IdempotencyRow, (submission.owner, submission.idempotency_key))
    if row is None:
        return False
    if row.expires_at <= at:
        session.delete(row)
        session.flush()
        return False
    if row.fingerprint != submission.fingerprint:
        raise IdempotencyConflict
    return True


def _store(session: Session, submission: Submission, at: datetime) -> tuple[PostRow, JobRow, bool]:
    """The post's row and job, and whether they were there before with the same content."""
    identity = (submission.post.post_id, submission.post.revision)
    found = (session.execute(_post_and_job(*identity).with_for_update(of=JobRow))).first()
    if found is not None:
        row, job = found
        if row.fingerprint == submission.fingerprint:
            return row, job, True
        if job.status != "failed" or _verdict(session, *identity, None) is not None:
            raise RevisionConflict
        session.execute(
            delete(IdempotencyRow).where(IdempotencyRow.post_id == identity[0], IdempotencyRow.revision == identity[1])
        )
        garbage.add(session, row.media_sha256)
        leases.reset(job, at)
        _fill(row, submission, at)
        return row, job, False
    row, job = PostRow(post_id=identity[0], revision=identity[1]), leases.new_job(submission, at)
    _fill(row, submission, at)
    session.add(row)
    session.flush()
    session.add(job)
    return row, job, False


def _start_over(session: Session, row: PostRow, job: JobRow, submission: Submission, at: datetime) -> None:
    """The same content again, with its media where the first one is gone or what its URL gave was no good."""
    if submission.media_sha256 not in (None, row.media_sha256):
        garbage.add(session, row.media_sha256)
        row.media_sha256 = submission.media_sha256
    leases.reset(job, at)


def _post_and_job(post_id: str, revision: int | None) -> Select[PostRow, JobRow]:
    """The given revision, or the newest."""
    query = (
        select(PostRow, JobRow)
        .join(JobRow, (JobRow.post_id == PostRow.post_id) & (JobRow.revision == PostRow.revision))
        .where(PostRow.post_id == post_id)
    )
    if revision is not None:
        return query.where(PostRow.revision == revision)
    return query.order_by(PostRow.revision.desc()).limit(1)


def _why_lost(session: Session, post_id: str) -> ParakhError:
    return PostErased() if session.get(ErasureRow, post_id) is not None else LeaseLost()


def _fill(row: PostRow, submission: Submission, at: datetime) -> None:
    post = submission.post
    row.author_id, row.content_type = post.author_id, post.content_type
    row.created_at, row.received_at = post.created_at, at
    row.content, row.fingerprint = post.model_dump_json(), submission.fingerprint
    row.media_sha256, row.media_url = submission.media_sha256, submission.media_url


def _key_row(submission: Submission, at: datetime, ttl_s: float, *, done: bool) -> IdempotencyRow:
    return IdempotencyRow(
        owner=submission.owner,
        key=submission.idempotency_key,
        fingerprint=submission.fingerprint,
        post_id=submission.post.post_id,
        revision=submission.post.revision,
        created_at=at,
        expires_at=at + timedelta(seconds=ttl_s),
        completed_at=at if done else None,
    )


def _verdict(session: Session, post_id: str, revision: int, policy_version: str | None) -> Verdict | None:
    query = (
        select(VerdictRow.body)
        .where(VerdictRow.post_id == post_id, VerdictRow.revision == revision)
        .order_by(VerdictRow.decided_at.desc())
        .limit(1)
    )
    if policy_version is not None:
        query = query.where(VerdictRow.policy_version == policy_version)
    body = session.scalar(query)
    return None if body is None else Verdict.model_validate_json(body)


def _verdict_row(verdict: Verdict, *, indexed: bool) -> VerdictRow:
    return VerdictRow(
        post_id=verdict.post_id,
        revision=verdict.revision,
        policy_version=verdict.decision.policy_version,
        action=verdict.decision.action,
        category=verdict.decision.category,
        nsfw_score=verdict.nsfw_score,
        created_at=verdict.created_at,
        decided_at=verdict.decided_at,
        indexed=indexed,
        reused=verdict.reused_from is not None,
        body=verdict.model_dump_json(),
    )


def _complete_keys(session: Session, post_id: str, revision: int) -> None:
    open_keys = update(IdempotencyRow).where(
        IdempotencyRow.post_id == post_id,
        IdempotencyRow.revision == revision,
        IdempotencyRow.completed_at.is_(None),
    )
    session.execute(open_keys.values(completed_at=leases.now()))


def _state(post: PostRow, job: JobRow, verdict: Verdict | None) -> PostState:
    return PostState(
        post_id=post.post_id,
        revision=post.revision,
        status=job.status,  # type: ignore[arg-type]
        received_at=post.received_at,
        attempts=job.attempts,
        lease_expired=job.status == "running" and not leases.is_running(job, leases.now()),
        error=None if job.error is None else json.loads(job.error),
        verdict=verdict,
    )
