"""Databases for tests, at the newest schema without running its migrations every time."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from functools import cache
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from serve_app.records import Records
from serve_app.records.engine import database_url


def sqlite_url(folder: Path, name: str = "parakh.db") -> str:
    """A new file in `folder`, copied from one that was migrated once in this session; one that is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        shutil.copyfile(_template(), folder / name)
    return f"sqlite:///{folder / name}"


@cache
def _template() -> Path:
    path = Path(tempfile.mkdtemp(prefix="parakh-test-")) / "template.db"

    async def migrate() -> None:
        await (await Records.open(f"sqlite:///{path}")).close()

    thread = threading.Thread(target=lambda: asyncio.run(migrate()))  # the caller may have a loop of its own
    thread.start()
    thread.join()
    return path


async def emptied(url: str) -> str:
    """The PostgreSQL database without a row, at the schema it has; without a schema where it has none."""
    engine = create_async_engine(database_url(url))
    async with engine.begin() as connection:
        names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
        tables = ", ".join(f'"{name}"' for name in await connection.scalars(text(names)))
        if tables:
            await connection.execute(text("SET LOCAL session_replication_role = replica"))  # or the audit refuses
            await connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    await engine.dispose()
    return url


async def without_schema(url: str) -> str:
    engine = create_async_engine(database_url(url))
    async with engine.begin() as connection:
        await connection.execute(text("DROP SCHEMA public CASCADE"))
        await connection.execute(text("CREATE SCHEMA public"))
    await engine.dispose()
    return url
