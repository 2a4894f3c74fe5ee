"""What only one process may do at a time, such as publishing the outbox: a lease for each duty.

The processes may be on several machines, whose clocks differ: the database's own tells whether a lease is over. (SQLite
is one machine, and its processes have one clock.)
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from serve_app.records import leases
from serve_app.records.bulk import upsert
from serve_app.records.engine import Database
from serve_app.records.event_tables import DutyRow


class DutyStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, name: str, token: str, lease_s: float) -> bool:
        """Take the duty, or keep it: False while another token has it. `token`: the process's own, at most 64 long."""

        def held_by_another(session: Session) -> bool:
            held = (DutyRow.name == name) & (DutyRow.token != token) & (DutyRow.until > _now(session))
            return session.scalar(select(DutyRow.name).where(held)) is not None

        def work(session: Session) -> bool:
            at = _now(session)
            values = {"token": token, "until": at + timedelta(seconds=lease_s)}
            free = (DutyRow.token == token) | (DutyRow.until <= at)
            statement = upsert(session, DutyRow).values(name=name, **values)
            taken = statement.on_conflict_do_update(index_elements=["name"], set_=values, where=free)
            return session.scalar(taken.returning(DutyRow.token)) is not None

        if await self._database.read(held_by_another):
            return False  # asking costs no writer's turn
        return await self._database.write(work)

    async def give_back(self, name: str, token: str) -> None:
        """The next may take it at once. Nothing where another has it by now."""
        held = delete(DutyRow).where(DutyRow.name == name, DutyRow.token == token)
        await self._database.write(lambda session: session.execute(held) and None)


def _now(session: Session) -> Any:
    """When the transaction began: a value, or on PostgreSQL an expression."""
    return func.now() if session.get_bind().dialect.name == "postgresql" else leases.now()
