"""Bring a database to the newest schema: Alembic, from the migrations packaged beside this file.

Several processes may start at once: the first takes a lock (SQLite: the write lock; PostgreSQL: an advisory lock),
the others wait for it and find nothing left to do. All steps are one transaction.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection
from sqlalchemy.orm import Session

from serve_app.records.engine import Database, open_database

_MIGRATIONS = Path(__file__).parent / "migrations"


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def upgrade(url: str | URL, revision: str = "head") -> None:
    database = open_database(url, command_timeout_s=None)  # an index over a large table takes what it takes

    def steps(session: Session) -> None:
        database.lock(session, "schema", "migrations")
        command.upgrade(alembic_config(session.connection()), revision)

    try:
        if database.url.drivername == "sqlite" and database.url.database:
            Path(database.url.database).parent.mkdir(parents=True, exist_ok=True)
        await database.write(steps)
    finally:
        await database.close()


async def upgrade_database(database: Database, revision: str = "head") -> None:
    await upgrade(database.url, revision)
