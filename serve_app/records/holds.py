"""Evidence under legal hold: its post cannot be erased, and no sweep deletes its media."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from serve_app.posts import Verdict
from serve_app.records import audit, garbage, leases
from serve_app.records.engine import Database
from serve_app.records.similarity_tables import LegalHoldRow


@dataclass(frozen=True)
class LegalHold:
    post_id: str
    media_sha256: str | None
    since: datetime
    reason: str


def put(session: Session, verdict: Verdict, media_sha256: str | None) -> None:
    """Joins the transaction that stores the verdict. Idempotent."""
    if session.get(LegalHoldRow, verdict.post_id) is None:
        at, digest = leases.now(), verdict.media_sha256 or media_sha256
        reason = verdict.decision.reason
        session.add(LegalHoldRow(post_id=verdict.post_id, media_sha256=digest, since=at, reason=reason))
        audit.add(session, "policy", "post.hold", verdict.post_id, reason=reason, media_sha256=digest)


def stands(session: Session, post_id: str) -> bool:
    return session.get(LegalHoldRow, post_id) is not None


class LegalHoldStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> list[LegalHold]:
        """Oldest first."""
        query = select(LegalHoldRow).order_by(LegalHoldRow.since)
        return await self._database.read(lambda session: [_hold(row) for row in session.scalars(query)])

    async def release(self, post_id: str, actor: str) -> bool:
        """From now on retention and erasure count again. False where there is no hold."""

        def work(session: Session) -> bool:
            self._database.lock(session, "post", post_id)
            row = session.get(LegalHoldRow, post_id)
            if row is None:
                return False
            session.delete(row)
            garbage.add(session, row.media_sha256)  # the sweep finds out whether a post still needs it
            audit.add(session, actor, "post.release", post_id)
            return True

        return await self._database.write(work)


def _hold(row: LegalHoldRow) -> LegalHold:
    return LegalHold(row.post_id, row.media_sha256, row.since, row.reason)
