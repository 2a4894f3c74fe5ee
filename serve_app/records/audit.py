"""Who did what to which id, and when. Append-only: the database itself refuses to change or delete a line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from serve_app.records.engine import Database
from serve_app.records.tables import AuditRow
from serve_app.records.values import AuditEntry


def add(session: Session, actor: str, action: str, subject: str, **detail: Any) -> None:
    """Joins the caller's transaction, so that nothing happens unrecorded."""
    line = AuditRow(at=datetime.now(UTC), actor=actor, action=action, subject=subject, detail=json.dumps(detail))
    session.add(line)


class AuditStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def entries(self, subject: str | None = None, limit: int = 100) -> list[AuditEntry]:
        """Newest first."""
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if subject is not None:
            query = query.where(AuditRow.subject == subject)
        return await self._database.read(lambda session: [_entry(row) for row in session.scalars(query)])


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(row.at, row.actor, row.action, row.subject, json.loads(row.detail))
