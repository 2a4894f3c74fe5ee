"""The one place where a job changes hands. A lease is a random token with an end; only its holder may conclude.

pending ──claim──> running ──conclude──> done
   ^                 │  │
   └──── retry ──────┘  └──── fail ────> failed       an expired lease may be claimed by anyone
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from serve_app.posts import Post
from serve_app.records.tables import JobRow, PostRow
from serve_app.records.values import Lease, Submission


def now() -> datetime:
    return datetime.now(UTC)


def new_job(submission: Submission, at: datetime) -> JobRow:
    return JobRow(
        post_id=submission.post.post_id,
        revision=submission.post.revision,
        status="pending",
        created_at=at,
        post_created_at=submission.post.created_at,
        available_at=at,
        attempts=0,
        durable=False,
    )


def done_values(submission: Submission, at: datetime) -> dict[str, Any]:
    """The row of a job that was done before it was written: the event path judges first."""
    return {
        "post_id": submission.post.post_id,
        "revision": submission.post.revision,
        "status": "done",
        "created_at": at,
        "post_created_at": submission.post.created_at,
        "available_at": at,
        "lease": None,
        "lease_until": None,
        "attempts": 1,
        "durable": False,
        "error": None,
        "finished_at": at,
    }


def reset(job: JobRow, at: datetime) -> None:
    """Start over: a failed post sent again, or a decided one under a new policy."""
    job.status, job.created_at, job.available_at = "pending", at, at
    job.attempts, job.durable, job.error, job.finished_at = 0, False, None, None
    job.lease, job.lease_until = None, None


def is_running(job: JobRow, at: datetime) -> bool:
    return job.status == "running" and job.lease_until is not None and job.lease_until > at


def claim(job: JobRow, post: PostRow, lease_s: float, at: datetime) -> Lease:
    job.status, job.lease, job.lease_until = "running", secrets.token_hex(16), at + timedelta(seconds=lease_s)
    job.attempts += 1
    return Lease(
        post=Post.model_validate_json(post.content),
        token=job.lease,
        until=job.lease_until,
        attempts=job.attempts,
        media_sha256=post.media_sha256,
        media_url=post.media_url,
    )


def holds(job: JobRow | None, lease: Lease) -> bool:
    return job is not None and job.status == "running" and job.lease == lease.token


def finish(job: JobRow, status: str, error: Mapping[str, Any] | None, at: datetime) -> None:
    job.status, job.finished_at = status, at
    job.lease, job.lease_until = None, None
    job.error = None if error is None else json.dumps(error)


def retry(job: JobRow, error: Mapping[str, Any] | None, available_at: datetime, *, counts: bool) -> None:
    job.status, job.available_at = "pending", available_at
    job.attempts -= 0 if counts else 1
    job.lease, job.lease_until = None, None
    job.error = None if error is None else json.dumps(error)
