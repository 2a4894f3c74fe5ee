"""Posts that were judged on the event path, many in one transaction: each is accepted and concluded at once.

Everything is read beforehand in a few statements, decided post by post, and written at the end in a few more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from deployments.similarity.content import Use
from serve_app.gate_settings import QueueSettings
from serve_app.posts import Post, Verdict
from serve_app.records import garbage, index_jobs, leases, outbox, post_rows, review_queue
from serve_app.records.bulk import insert_all
from serve_app.records.engine import Database
from serve_app.records.errors import MediaBeingDeleted, RevisionConflict
from serve_app.records.index_jobs import Word
from serve_app.records.outbox import NewEvent
from serve_app.records.references import FloodLimit
from serve_app.records.tables import JobRow, MediaGarbageRow, PostRow, VerdictRow
from serve_app.records.values import Concluded, JudgedPost, Refusal

Identity = tuple[str, int]  # post id, revision


def lock_names(judged: JudgedPost) -> list[tuple[str, str]]:
    names = [("post", judged.submission.post.post_id)]
    if judged.submission.media_sha256 is not None:
        names.append(("media", judged.submission.media_sha256))
    return names + [("reference", match.id) for match in judged.verdict.matches if match.use == Use.PROTECTED]


class PostWriter:
    """For one transaction, which holds the locks of `lock_names`. Raises MediaBeingDeleted."""

    def __init__(
        self,
        database: Database,
        session: Session,
        flood: FloodLimit,
        posts: Sequence[JudgedPost],
        erased: Collection[str],
        events: list[NewEvent],
        queue: QueueSettings,
    ) -> None:
        self._database, self._session, self._flood, self._queue = database, session, flood, queue
        self._erased, self._events = erased, events
        self._at = leases.now()
        self._fingerprints: dict[Identity, str] = {}
        self._stored: dict[Identity, tuple[PostRow, JobRow]] = {}
        self._verdicts: set[tuple[str, int, str]] = set()
        self._rows: dict[type[PostRow | JobRow | VerdictRow], list[dict[str, Any]]] = {
            table: [] for table in (PostRow, JobRow, VerdictRow)
        }
        self._words: list[Word] = []
        self._judged: list[tuple[Post, Verdict]] = []
        self._garbage: list[str | None] = []
        if posts:
            self._read([judged.submission.post.post_id for judged in posts], {_identity(judged) for judged in posts})
            self._check_media({judged.submission.media_sha256 for judged in posts} - {None})

    def add(self, judged: JudgedPost) -> Concluded | Refusal:
        submission, verdict, identity = judged.submission, judged.verdict, _identity(judged)
        known = self._fingerprints.get(identity)
        if identity[0] in self._erased:
            return self._without(judged, "erased")
        if known not in (None, submission.fingerprint) and not self._is_replaceable(identity):
            return self._without(judged, Refusal(RevisionConflict.code, RevisionConflict.message))
        if known == submission.fingerprint and (*identity, verdict.decision.policy_version) in self._verdicts:
            return self._without(judged, "duplicate")
        self._take(judged, is_known=known is not None)
        self._fingerprints[identity] = submission.fingerprint
        self._verdicts.add((*identity, verdict.decision.policy_version))
        self._rows[VerdictRow].append(post_rows.verdict_values(verdict, indexed=judged.content is not None))
        self._events.append(outbox.judged(verdict))
        newest = max(revision for post_id, revision in self._fingerprints if post_id == identity[0])
        word = post_rows.index_word(verdict, newest, judged.content, judged.copy_of)
        self._words += [] if word is None else [word]
        post_rows.note_effects(self._database, self._session, self._flood, verdict, submission.media_sha256)
        self._judged.append((submission.post, verdict))
        return "done"

    def flush(self) -> None:
        for table, rows in self._rows.items():
            insert_all(self._session, table, rows)
        if self._words:
            index_jobs.add_all(self._session, self._words)
        if any(self._garbage):
            garbage.add(self._session, *self._garbage)
        review_queue.verdicts_stored(self._session, self._queue, self._judged)

    def _take(self, judged: JudgedPost, *, is_known: bool) -> None:
        """The post's row, and its job as done. A worker that has it finds the verdict."""
        submission, stored = judged.submission, self._stored.get(_identity(judged))
        if not is_known:
            self._rows[PostRow].append(post_rows.post_values(submission, self._at))
            self._rows[JobRow].append(leases.done_values(submission, self._at))
        elif stored is not None:
            row, job = stored
            if row.fingerprint != submission.fingerprint:
                post_rows.replace_failed(self._session, row, job, submission, self._at)
            elif job.status in ("done", "failed"):
                post_rows.start_over(self._session, row, job, submission, self._at)
            elif submission.media_sha256 not in (None, row.media_sha256):
                self._garbage.append(row.media_sha256)
                row.media_sha256 = submission.media_sha256
            job.attempts += job.status != "running"
            leases.finish(job, "done", None, self._at)
            post_rows.complete_keys(self._session, row.post_id, row.revision)

    def _without(self, judged: JudgedPost, outcome: Concluded | Refusal) -> Concluded | Refusal:
        """Nothing is stored; its file is not needed for it, unless the post has the same."""
        stored = self._stored.get(_identity(judged))
        if stored is None or stored[0].media_sha256 != judged.submission.media_sha256:
            self._garbage.append(judged.submission.media_sha256)
        return outcome

    def _is_replaceable(self, identity: Identity) -> bool:
        """A post that failed and never got a verdict."""
        judged = any(verdict[:2] == identity for verdict in self._verdicts)
        return identity in self._stored and self._stored[identity][1].status == "failed" and not judged

    def _read(self, ids: Sequence[str], identities: set[Identity]) -> None:
        revisions = select(PostRow.post_id, PostRow.revision, PostRow.fingerprint).where(PostRow.post_id.in_(set(ids)))
        for post_id, revision, fingerprint in self._session.execute(revisions):
            self._fingerprints[post_id, revision] = fingerprint
        known = sorted(identities & self._fingerprints.keys())
        if known:
            query = (
                select(PostRow, JobRow)
                .join(JobRow, (JobRow.post_id == PostRow.post_id) & (JobRow.revision == PostRow.revision))
                .where(tuple_(PostRow.post_id, PostRow.revision).in_(known))
                .with_for_update(of=JobRow)
            )
            for row, job in self._session.execute(query):
                self._stored[row.post_id, row.revision] = row, job
            verdicts = select(VerdictRow.post_id, VerdictRow.revision, VerdictRow.policy_version).where(
                tuple_(VerdictRow.post_id, VerdictRow.revision).in_(known)
            )
            self._verdicts = set(self._session.execute(verdicts))

    def _check_media(self, digests: Collection[str | None]) -> None:
        if digests:
            going = select(MediaGarbageRow.sha256).where(
                MediaGarbageRow.sha256.in_(digests), MediaGarbageRow.deleting_until > self._at
            )
            if self._session.execute(going).first() is not None:
                raise MediaBeingDeleted


def _identity(judged: JudgedPost) -> Identity:
    return judged.submission.post.post_id, judged.submission.post.revision
