"""Into the moderators' queue: at most one open review for a post, to which every further reason is added.

What a person has said of a revision stands: no machine asks again. Every function here joins a transaction that holds
the locks on the posts.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from serve_app.gate_settings import QueueSettings
from serve_app.posts import Post, Verdict
from serve_app.records import gate_jobs, leases
from serve_app.records.bulk import insert_all
from serve_app.records.gate_tables import OutcomeRow, ReviewRow
from serve_app.records.gate_values import Opening, Source

REVIEW = "review"  # the verdict's action that asks for a person


class ReviewWriter:
    def __init__(self, session: Session, settings: QueueSettings) -> None:
        self._session = session
        self._due_s: Mapping[Source, float] = {
            "stream": settings.stream_due_s,
            "verdict": settings.verdict_due_s,
            "gate": settings.gate_due_s,
            "audit": settings.audit_due_s,
        }

    def open(self, openings: Sequence[Opening]) -> None:
        if not openings:
            return
        ids = sorted({opening.post_id for opening in openings})
        at = leases.now()
        said = select(OutcomeRow.post_id, OutcomeRow.revision).where(OutcomeRow.post_id.in_(ids))
        judged = {tuple(row) for row in self._session.execute(said)}
        waiting = select(ReviewRow).where(ReviewRow.post_id.in_(ids), ReviewRow.decided_at.is_(None))
        rows = self._session.scalars(waiting.order_by(ReviewRow.review_id).with_for_update())
        standing = {row.post_id: row for row in rows}
        fresh: dict[str, dict[str, Any]] = {}
        for opening in openings:
            due_at = at + timedelta(seconds=self._due_s[opening.source])
            if (opening.post_id, opening.revision) in judged:
                continue
            if (row := standing.get(opening.post_id)) is not None:
                changed = _joined(row.__dict__, opening, due_at)
                for name, value in changed.items():
                    setattr(row, name, value)
            elif (values := fresh.get(opening.post_id)) is not None:
                values.update(_joined(values, opening, due_at))
            else:
                fresh[opening.post_id] = _values(opening, at, due_at)
        insert_all(self._session, ReviewRow, list(fresh.values()))


def verdicts_stored(session: Session, settings: QueueSettings, judged: Sequence[tuple[Post, Verdict]]) -> None:
    """Milestones that waited for these verdicts are due, and posts whose action is `review` are queued."""
    if not judged:
        return
    gate_jobs.wake(session, [post.post_id for post, _ in judged])
    asks = [_opening(post, verdict) for post, verdict in judged if verdict.decision.action == REVIEW]
    ReviewWriter(session, settings).open(asks)


def primary_language(tag: str | None) -> str:
    """`hi` of `hi-Latn-IN`; empty where it is not known."""
    return (tag or "").partition("-")[0].lower()[:8]


def _opening(post: Post, verdict: Verdict) -> Opening:
    return Opening(
        post_id=verdict.post_id,
        revision=verdict.revision,
        author_id=post.author_id,
        language=language_of(verdict, post),
        content_type=str(post.content_type),
        created_at=verdict.created_at,
        nsfw_score=verdict.nsfw_score,
        source="verdict",
    )


def language_of(verdict: Verdict, post: Post) -> str | None:
    tag = verdict.language.tag if verdict.language is not None else post.language
    return None if tag is None else tag[:64]


def _joined(row: Mapping[str, Any], opening: Opening, due_at: datetime) -> dict[str, Any]:
    """What changes in an open review. It is about the newest revision."""
    sources = row["sources"].split()
    changed: dict[str, Any] = {
        "sources": " ".join([*sources, *({opening.source} - set(sources))]),
        "due_at": min(row["due_at"], due_at),
        "milestone": row["milestone"] if row["milestone"] is not None else opening.milestone,
    }
    return changed | (_facts(opening) if opening.revision >= row["revision"] else {})


def _values(opening: Opening, at: datetime, due_at: datetime) -> dict[str, Any]:
    return {
        "review_id": uuid.uuid4().hex,
        "post_id": opening.post_id,
        "sources": opening.source,
        "milestone": opening.milestone,
        "created_at": at,
        "due_at": due_at,
        "claimed_by": None,
        "claimed_until": None,
        "decided_at": None,
        "outcome": None,
        "category": None,
        "note": None,
        **_facts(opening),
    }


def _facts(opening: Opening) -> dict[str, Any]:
    return {
        "revision": opening.revision,
        "author_id": opening.author_id,
        "language": opening.language,
        "primary_language": primary_language(opening.language),
        "content_type": opening.content_type,
        "post_created_at": opening.created_at,
        "nsfw_score": opening.nsfw_score,
    }
