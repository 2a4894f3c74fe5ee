"""The packaged migrations make exactly the tables the code describes, once, however many processes start."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.orm import Session

from serve_app.records import Records, upgrade
from serve_app.records.engine import database_url, open_database
from serve_app.records.migrate import alembic_config
from serve_app.records.tables import Table


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, Table.metadata))


async def test_migrations_and_tables_agree(url: str) -> None:
    await upgrade(url)
    database = open_database(url)
    assert await database.read(lambda session: differences(session.connection())) == []
    await database.close()


async def test_down_and_up_again(url: str) -> None:
    await upgrade(url)
    database = open_database(url)
    await database.write(lambda session: command.downgrade(alembic_config(session.connection()), "base"))
    left = await database.read(lambda session: inspect(session.connection()).get_table_names())
    assert left == ["alembic_version"]
    await database.close()
    await upgrade(url)


async def test_several_starts_at_once(url: str) -> None:
    await asyncio.gather(*(upgrade(url) for _ in range(5)))
    records = await Records.open(url)
    await records.ping()
    await records.close()


async def test_a_database_in_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    await upgrade(f"sqlite:///{tmp_path}/new/folder/parakh.db")
    assert (tmp_path / "new/folder/parakh.db").is_file()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db"])
def test_what_would_forget_or_is_unknown_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="give a"):
        database_url(url)


async def test_sqlite_is_durable(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/parakh.db")

    def pragmas(session: Session) -> dict[str, Any]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return {name: session.scalar(text(f"PRAGMA {name}")) for name in names}

    found = await database.write(pragmas)
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    await database.close()
