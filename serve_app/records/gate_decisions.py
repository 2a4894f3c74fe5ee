"""Milestones and their decisions: exactly one for each post and milestone, whatever comes how often and in which order.

view count passes a milestone -> gate job, in the same transaction
claim -> posts -> (the gate is asked) -> store: decision, event and place in the queue, and the job is gone

A job is claimed by moving its `available_at`; a milestone waits for the lower ones of its post. A job whose post has
no verdict yet is parked until one is stored. Two who decide the same milestone at once find, under the lock on the
post, the decision of the faster one.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Select, delete, func, select, tuple_
from sqlalchemy.orm import Session, aliased

from serve_app.gate_settings import QueueSettings
from serve_app.posts import Post, Verdict
from serve_app.records import gate_jobs, gate_rows, leases, outbox
from serve_app.records.bulk import insert_all, upsert
from serve_app.records.engine import Database
from serve_app.records.errors import NotJudgedYet, PostNotFound
from serve_app.records.gate_rows import NEVER
from serve_app.records.gate_tables import GateDecisionRow, GateJobRow, GateStateRow
from serve_app.records.gate_values import Decided, GatedPost, GateJob, StoredDecision
from serve_app.records.review_queue import ReviewWriter, language_of
from serve_app.records.tables import ErasureRow, PostRow, VerdictRow
from serve_app.records.values import ViewCount
from serve_app.records.view_counts import ViewWriter

_SALT, _SHARE = "audit_salt", "audit_share"
_NO_VERDICT = "no verdict"


class GateStore:
    def __init__(self, database: Database, queue: QueueSettings, milestones: Sequence[int]) -> None:
        self._database, self._queue = database, queue
        self.milestones = tuple(sorted(milestones))

    async def note(self, count: ViewCount, milestone: int) -> StoredDecision | None:
        """Store the count like an event's, with the jobs of all milestones up to this one; the decision that stands.

        Raises PostNotFound, NotJudgedYet: nothing is stored then.
        """

        def work(session: Session) -> StoredDecision | None:
            self._database.lock(session, "post", count.post_id)
            if session.scalar(select(PostRow.post_id).where(PostRow.post_id == count.post_id).limit(1)) is None:
                raise PostNotFound
            if not _posts(session, [count.post_id]):
                raise NotJudgedYet
            events: list[outbox.NewEvent] = []
            writer = ViewWriter(session, self.milestones, [count], (), events)
            writer.add(count)
            writer.flush()
            outbox.add(session, *events)
            passed = [each for each in self.milestones if each <= milestone]
            decided = select(GateDecisionRow).where(
                GateDecisionRow.post_id == count.post_id, GateDecisionRow.milestone.in_(passed)
            )
            rows = {row.milestone: row for row in session.scalars(decided)}
            gate_jobs.add(session, [(count, each) for each in passed if each not in rows])
            return gate_rows.stored(rows[milestone]) if milestone in rows else None

        return await self._database.write(work)

    async def claim(self, limit: int, busy_s: float) -> list[GateJob]:
        """The oldest that wait, or whose worker took longer than `busy_s`; of each post the lowest milestone."""

        def work(session: Session) -> list[GateJob]:
            rows = list(session.scalars(_due(limit).with_for_update(skip_locked=True, of=GateJobRow)))
            for row in rows:
                row.available_at = leases.now() + timedelta(seconds=busy_s)
                row.attempts, row.error = row.attempts + 1, None
            return [gate_rows.job(row) for row in rows]

        if await self._database.read(lambda session: session.scalars(_due(1)).first()) is None:
            return []  # an empty queue costs no writer's turn
        return await self._database.write(work)

    async def open_jobs(self, post_id: str, up_to: int) -> list[GateJob]:
        """Of one post, lowest milestone first, also those that a worker has: for who cannot wait."""
        query = select(GateJobRow).where(GateJobRow.post_id == post_id, GateJobRow.milestone <= up_to)
        ordered = query.order_by(GateJobRow.milestone)
        return await self._database.read(lambda session: [gate_rows.job(row) for row in session.scalars(ordered)])

    async def posts(self, post_ids: Sequence[str]) -> dict[str, GatedPost]:
        """Those that have a verdict."""
        return await self._database.read(lambda session: _posts(session, post_ids))

    async def store(self, decided: Sequence[Decided]) -> list[StoredDecision]:
        """Decision, event, place in the queue and end of the job in one transaction, lowest milestone first.

        The decisions that stand: where another was faster, that one's. Posts erased meanwhile have none.
        """
        ordered = sorted(decided, key=lambda each: each.job.identity)

        def work(session: Session) -> list[StoredDecision]:
            ids = sorted({each.job.post_id for each in ordered})
            self._database.lock_all(session, [("post", post_id) for post_id in ids])
            erased = set(session.scalars(select(ErasureRow.post_id).where(ErasureRow.post_id.in_(ids))))
            identities = [each.job.identity for each in ordered]
            key = tuple_(GateDecisionRow.post_id, GateDecisionRow.milestone)
            rows = session.scalars(select(GateDecisionRow).where(key.in_(identities)))
            standing = {(row.post_id, row.milestone): gate_rows.stored(row) for row in rows}
            at, fresh = leases.now(), []
            for each in ordered:
                if each.job.post_id not in erased and each.job.identity not in standing:
                    standing[each.job.identity] = gate_rows.made(each, at)
                    fresh.append(each)
            insert_all(session, GateDecisionRow, [gate_rows.values(each, at) for each in fresh])
            outbox.add(session, *(gate_rows.event(standing[each.job.identity]) for each in fresh))
            openings = [gate_rows.opening(each) for each in fresh]
            ReviewWriter(session, self._queue).open([opening for opening in openings if opening is not None])
            jobs = tuple_(GateJobRow.post_id, GateJobRow.milestone)
            session.execute(delete(GateJobRow).where(jobs.in_(identities)))
            return [standing[identity] for identity in identities if identity in standing]

        return await self._database.write(work) if ordered else []

    async def decisions(self, post_id: str) -> list[StoredDecision]:
        """Lowest milestone first."""
        query = select(GateDecisionRow).where(GateDecisionRow.post_id == post_id).order_by(GateDecisionRow.milestone)
        return await self._database.read(lambda session: [gate_rows.stored(row) for row in session.scalars(query)])

    async def retry(self, jobs: Sequence[GateJob], error: str, pause_s: float) -> None:
        await self._put_off(jobs, error[:1000], leases.now() + timedelta(seconds=pause_s))

    async def park(self, jobs: Sequence[GateJob]) -> None:
        """Until their posts have a verdict; one that came meanwhile makes them due at once."""
        await self._put_off(jobs, _NO_VERDICT, NEVER)

    async def _put_off(self, jobs: Sequence[GateJob], error: str, until: datetime) -> None:
        def work(session: Session) -> None:
            self._database.lock_all(session, [("post", job.post_id) for job in jobs])
            key = tuple_(GateJobRow.post_id, GateJobRow.milestone)
            waiting = select(GateJobRow).where(key.in_([job.identity for job in jobs]))
            rows = list(session.scalars(waiting.order_by(GateJobRow.post_id, GateJobRow.milestone).with_for_update()))
            judged = _judged_ids(session, [row.post_id for row in rows]) if until == NEVER else set()
            for row in rows:
                row.available_at = leases.now() if row.post_id in judged else until
                row.error = error

        if jobs:
            await self._database.write(work)

    async def forget_parked(self, after_s: float) -> int:
        """Milestones of posts that never got a verdict here: how many were given up."""
        before = leases.now() - timedelta(seconds=after_s)
        old = delete(GateJobRow).where(GateJobRow.available_at >= NEVER, GateJobRow.created_at < before)
        return await self._database.write(lambda session: int(session.execute(old).rowcount))  # type: ignore[attr-defined]

    async def waiting(self) -> tuple[int, datetime | None]:
        """How many, and since when the oldest does; not those that are parked."""
        query = select(func.count(), func.min(GateJobRow.created_at)).where(GateJobRow.available_at < NEVER)

        def work(session: Session) -> tuple[int, datetime | None]:
            count, oldest = session.execute(query).one()
            return count, oldest

        return await self._database.read(work)

    async def audit_share(self) -> float | None:
        """As last set, for all processes."""
        query = select(GateStateRow.value).where(GateStateRow.name == _SHARE)
        value = await self._database.read(lambda session: session.scalar(query))
        return None if value is None else float(value)

    async def set_audit_share(self, share: float) -> None:
        def work(session: Session) -> None:
            values = {"value": repr(share), "at": leases.now()}
            statement = upsert(session, GateStateRow).values(name=_SHARE, **values)
            session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))

        await self._database.write(work)

    async def salt(self) -> bytes:
        """Of the audit sample; made once, for all processes."""

        def work(session: Session) -> bytes:
            values = {"name": _SALT, "value": secrets.token_hex(32), "at": leases.now()}
            session.execute(upsert(session, GateStateRow).values(values).on_conflict_do_nothing())
            return bytes.fromhex(session.scalars(select(GateStateRow.value).where(GateStateRow.name == _SALT)).one())

        return await self._database.write(work)


def _due(limit: int) -> Select[GateJobRow]:
    lower = aliased(GateJobRow)
    waits = select(lower.post_id).where(lower.post_id == GateJobRow.post_id, lower.milestone < GateJobRow.milestone)
    query = select(GateJobRow).where(GateJobRow.available_at <= leases.now(), ~waits.exists())
    return query.order_by(GateJobRow.available_at).limit(limit)


def _judged_ids(session: Session, post_ids: Sequence[str]) -> set[str]:
    query = select(VerdictRow.post_id).where(VerdictRow.post_id.in_(sorted(set(post_ids)))).distinct()
    return set(session.scalars(query))


def _posts(session: Session, post_ids: Sequence[str]) -> dict[str, GatedPost]:
    query = (
        select(PostRow.content, VerdictRow.body)
        .join(VerdictRow, (VerdictRow.post_id == PostRow.post_id) & (VerdictRow.revision == PostRow.revision))
        .where(PostRow.post_id.in_(sorted(set(post_ids))))
        .order_by(PostRow.revision, VerdictRow.decided_at)
    )
    newest = {}
    for content, body in session.execute(query):
        verdict = Verdict.model_validate_json(body)
        newest[verdict.post_id] = (content, verdict)
    return {
        post_id: _gated(Post.model_validate_json(content), verdict) for post_id, (content, verdict) in newest.items()
    }


def _gated(post: Post, verdict: Verdict) -> GatedPost:
    return GatedPost(
        post_id=post.post_id,
        revision=post.revision,
        author_id=post.author_id,
        language=language_of(verdict, post),
        content_type=str(post.content_type),
        created_at=post.created_at.astimezone(UTC),
        nsfw_score=verdict.nsfw_score,
        category_scores=dict(verdict.category_scores),
        verdict_action=verdict.decision.action,
        policy_version=verdict.decision.policy_version,
    )


__all__ = ["GateStore"]
