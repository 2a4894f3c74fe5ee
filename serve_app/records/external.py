"""Ids brought into the index from outside: the records know them, so that reconciliation leaves them alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from serve_app.records.engine import Database
from serve_app.records.similarity_tables import ExternalItemRow


class ExternalItemStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, bank: str, ids: Collection[str]) -> None:
        """Idempotent."""

        def work(session: Session) -> None:
            insert: Any = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
            if rows := [{"bank": bank, "item_id": id_} for id_ in sorted(ids)]:
                session.execute(insert(ExternalItemRow).on_conflict_do_nothing(), rows)

        await self._database.write(work)

    async def forget(self, bank: str, ids: Collection[str]) -> None:
        gone = delete(ExternalItemRow).where(ExternalItemRow.bank == bank, ExternalItemRow.item_id.in_(ids))
        await self._database.write(lambda session: session.execute(gone) and None)
