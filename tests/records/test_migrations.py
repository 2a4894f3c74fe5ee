"""The packaged migrations make exactly the tables the code describes, once, however many processes start."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect

from serve_app.records import Records, upgrade
from serve_app.records.engine import Database, async_url
from serve_app.records.migrate import alembic_config
from serve_app.records.tables import Table


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, Table.metadata))


async def test_migrations_and_tables_agree(url: str) -> None:
    await upgrade(url)
    database = Database(url)
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


async def test_down_and_up_again(url: str) -> None:
    await upgrade(url)
    database = Database(url)
    async with database.writing() as session:
        connection = await session.connection()
        await connection.run_sync(lambda sync: command.downgrade(alembic_config(sync), "base"))
        left = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
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
        async_url(url)


async def test_sqlite_is_durable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/parakh.db")
    async with database.writing() as session:
        connection = await session.connection()
        found = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    await database.close()
