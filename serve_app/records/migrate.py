"""Bring a database to the newest schema: Alembic, from the migrations packaged beside this file.

Several processes may start at once: the first takes a lock (SQLite: the write lock; PostgreSQL: an advisory lock),
the others wait for it and find nothing left to do. All steps are one transaction.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from serve_app.records.engine import Database

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK_ID = 0x70617261  # "para"


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def upgrade(url: str, revision: str = "head") -> None:
    database = Database(url)
    try:
        if database.is_sqlite and database.url.database:
            Path(database.url.database).parent.mkdir(parents=True, exist_ok=True)
        async with database.writing() as session:
            if not database.is_sqlite:
                await session.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
            connection = await session.connection()
            await connection.run_sync(lambda sync: command.upgrade(alembic_config(sync), revision))
    finally:
        await database.close()
