"""How a post, its job, its keys and its verdict stand in rows: shared by the HTTP door, which accepts and concludes in
two transactions, and by the event path, which does both in one and many posts at a time.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from deployments.similarity.content import Bank, Content
from serve_app.posts import Verdict
from serve_app.records import garbage, holds, leases, references
from serve_app.records.engine import Database
from serve_app.records.errors import IdempotencyConflict, RevisionConflict
from serve_app.records.index_jobs import Word
from serve_app.records.references import FloodLimit
from serve_app.records.tables import IdempotencyRow, JobRow, PostRow, VerdictRow
from serve_app.records.values import PostState, Submission


def post_values(submission: Submission, at: datetime) -> dict[str, Any]:
    post = submission.post
    return {
        "post_id": post.post_id,
        "revision": post.revision,
        "author_id": post.author_id,
        "content_type": str(post.content_type),
        "created_at": post.created_at,
        "received_at": at,
        "content": post.model_dump_json(),
        "fingerprint": submission.fingerprint,
        "media_sha256": submission.media_sha256,
        "media_url": submission.media_url,
    }


def verdict_values(verdict: Verdict, *, indexed: bool) -> dict[str, Any]:
    return {
        "post_id": verdict.post_id,
        "revision": verdict.revision,
        "policy_version": verdict.decision.policy_version,
        "action": verdict.decision.action,
        "category": verdict.decision.category,
        "nsfw_score": verdict.nsfw_score,
        "created_at": verdict.created_at,
        "decided_at": verdict.decided_at,
        "indexed": indexed,
        "reused": verdict.reused_from is not None,
        "body": verdict.model_dump_json(),
    }


def key_row(submission: Submission, at: datetime, ttl_s: float, *, done: bool) -> IdempotencyRow:
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


def post_and_job(post_id: str, revision: int | None) -> Select[PostRow, JobRow]:
    """The given revision, or the newest."""
    query = (
        select(PostRow, JobRow)
        .join(JobRow, (JobRow.post_id == PostRow.post_id) & (JobRow.revision == PostRow.revision))
        .where(PostRow.post_id == post_id)
    )
    if revision is not None:
        return query.where(PostRow.revision == revision)
    return query.order_by(PostRow.revision.desc()).limit(1)


def verdict_of(session: Session, post_id: str, revision: int, policy_version: str | None) -> Verdict | None:
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


def known_key(session: Session, submission: Submission, at: datetime) -> bool:
    """Raises IdempotencyConflict."""
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


def store(session: Session, submission: Submission, at: datetime) -> tuple[PostRow, JobRow, bool]:
    """The post's row and job, and whether they were there before with the same content. Raises RevisionConflict."""
    identity = (submission.post.post_id, submission.post.revision)
    found = session.execute(post_and_job(*identity).with_for_update(of=JobRow)).first()
    if found is not None:
        row, job = found
        if row.fingerprint == submission.fingerprint:
            return row, job, True
        if job.status != "failed" or verdict_of(session, *identity, None) is not None:
            raise RevisionConflict
        replace_failed(session, row, job, submission, at)
        return row, job, False
    row, job = PostRow(**post_values(submission, at)), leases.new_job(submission, at)
    session.add(row)
    session.flush()
    session.add(job)
    return row, job, False


def replace_failed(session: Session, row: PostRow, job: JobRow, submission: Submission, at: datetime) -> None:
    """Other content in place of one that never got a verdict."""
    session.execute(
        delete(IdempotencyRow).where(IdempotencyRow.post_id == row.post_id, IdempotencyRow.revision == row.revision)
    )
    garbage.add(session, row.media_sha256)
    leases.reset(job, at)
    job.post_created_at = submission.post.created_at
    for name, value in post_values(submission, at).items():
        setattr(row, name, value)


def start_over(session: Session, row: PostRow, job: JobRow, submission: Submission, at: datetime) -> None:
    """The same content again, with its media where the first one is gone or what its URL gave was no good."""
    if submission.media_sha256 not in (None, row.media_sha256):
        garbage.add(session, row.media_sha256)
        row.media_sha256 = submission.media_sha256
    leases.reset(job, at)


def complete_keys(session: Session, post_id: str, revision: int) -> None:
    open_keys = update(IdempotencyRow).where(
        IdempotencyRow.post_id == post_id,
        IdempotencyRow.revision == revision,
        IdempotencyRow.completed_at.is_(None),
    )
    session.execute(open_keys.values(completed_at=leases.now()))


def note_effects(
    database: Database, session: Session, flood: FloodLimit, verdict: Verdict, media_sha256: str | None
) -> None:
    """What a verdict does beyond its own post: a legal hold, and its matches with protected works."""
    if verdict.decision.legal_hold:
        holds.put(session, verdict, media_sha256)
    references.note_matches(database, session, verdict, flood)


def index_word(verdict: Verdict, newest: int | None, content: Content | None, copy_of: str | None) -> Word | None:
    """What the index is to be told. It has one entry a post: that of the newest revision."""
    if newest != verdict.revision:
        return None
    if content is not None:
        op = "copy" if copy_of is not None else "index"
        return Word(op, Bank.POSTS, verdict.post_id, verdict.revision, content, copy_of)
    return Word("remove", Bank.POSTS, verdict.post_id, verdict.revision) if verdict.revision > 0 else None


def state_of(post: PostRow, job: JobRow, verdict: Verdict | None) -> PostState:
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
