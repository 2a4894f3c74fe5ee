"""What is known of content by its digests: the `KnownContent` that the pipeline asks before any encoder runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from deployments.runtime.values import Status
from serve_app.posts import Post, Verdict
from serve_app.records import leases
from serve_app.records.engine import Database
from serve_app.records.similarity_tables import BankChangeRow, HashEntryRow
from serve_app.records.tables import PostRow, VerdictRow
from serve_app.similarity import Digests, ListedDigest, SameContent

CANDIDATES = 8  # of the newest posts with the same bytes, looked at for one whose verdict may be reused
SETTLED = timedelta(seconds=10)  # until a change of references is sure to be in the index, as every search sees it


def note_change(session: Session, bank: str) -> None:
    """References or hash lists change in this transaction: verdicts from before are not reused."""
    insert: Any = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    values = {"bank": bank, "changed_at": leases.now()}
    noted = (
        insert(BankChangeRow)
        .values(values)
        .on_conflict_do_update(index_elements=["bank"], set_={"changed_at": values["changed_at"]})
    )
    session.execute(noted)  # one statement: the first changes of a bank may come together


class KnownStore:
    """KnownContent over the records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def listed(self, digests: Digests) -> list[ListedDigest]:
        given = {"md5": digests.md5, "sha1": digests.sha1, "sha256": digests.sha256}
        same = [and_(HashEntryRow.algorithm == name, HashEntryRow.digest == digest) for name, digest in given.items()]
        query = select(HashEntryRow).where(or_(*same)).order_by(HashEntryRow.list_name, HashEntryRow.algorithm)
        return await self._database.read(lambda session: [_listed(row) for row in session.scalars(query)])

    async def original(self, content: SameContent) -> Verdict | None:
        def work(session: Session) -> Verdict | None:
            changed = session.scalar(select(func.max(BankChangeRow.changed_at)))
            for post, body, decided_at in session.execute(_same_bytes(content)).all():
                if changed is not None and decided_at <= _aware(changed) + SETTLED:
                    return None  # newest first: the others are older still
                if _same_words(Post.model_validate_json(post), content):
                    verdict = Verdict.model_validate_json(body)
                    if _reusable(verdict):
                        return verdict
            return None

        return await self._database.read(work)

    async def actions(self, post_ids: Collection[str]) -> Mapping[str, str]:
        query = (
            select(VerdictRow.post_id, VerdictRow.action)
            .where(VerdictRow.post_id.in_(post_ids))
            .order_by(VerdictRow.revision, VerdictRow.decided_at)  # the last one of a post stands
        )
        if not post_ids:
            return {}
        return await self._database.read(lambda session: {row.post_id: row.action for row in session.execute(query)})


def _same_bytes(content: SameContent) -> Select[str, str, datetime]:
    return (
        select(PostRow.content, VerdictRow.body, VerdictRow.decided_at)
        .join(VerdictRow, (VerdictRow.post_id == PostRow.post_id) & (VerdictRow.revision == PostRow.revision))
        .where(
            PostRow.media_sha256 == content.media_sha256,
            PostRow.content_type == content.content_type,
            PostRow.post_id != content.post_id,
            VerdictRow.policy_version == content.policy_version,
            VerdictRow.indexed,
        )
        .order_by(VerdictRow.decided_at.desc())
        .limit(CANDIDATES)
    )


def _same_words(post: Post, content: SameContent) -> bool:
    return (post.caption or "").strip() == content.caption and post.language == content.language


def _reusable(verdict: Verdict) -> bool:
    """All of the original was judged, and searched for."""
    judged = all(report.status in (Status.OK, Status.MISSING) for report in verdict.modalities.values())
    return judged and verdict.similarity.status == "ok" and verdict.decision.use != "known_bad"


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo is not None else at.replace(tzinfo=leases.now().tzinfo)


def _listed(row: HashEntryRow) -> ListedDigest:
    return ListedDigest(row.list_name, row.algorithm, row.digest, tuple(json.loads(row.labels)))
