"""Two views of one database: `reading` and `writing`, each a transaction around a session.

SQLite: WAL with synchronous=FULL (a commit that was acknowledged survives a power cut), writers take the write lock
when they begin (BEGIN IMMEDIATE; a deferred transaction that upgrades fails at once under load) and queue in this
process first, because SQLite's own waiting is a sleep without order. PostgreSQL: `lock` serialises what touches one
post by an advisory lock that ends with the transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from sqlalchemy import URL, Connection, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from deployments.runtime.errors import NodeUnavailable

log = logging.getLogger(__name__)
BUSY_TIMEOUT_S = 15.0
_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")


class RecordsUnavailable(NodeUnavailable):
    message = "The database does not answer."


def async_url(url: str) -> URL:
    """The URL with the async driver this project uses; ValueError for anything but SQLite files and PostgreSQL."""
    parsed = make_url(url)
    family = parsed.drivername.partition("+")[0]
    if family not in _ASYNC_DRIVERS:
        raise ValueError(f"records in {family!r}: give a sqlite:/// or postgresql:// URL")
    if family == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError("records in memory would be forgotten: give a file, for instance sqlite:///parakh.db")
    return parsed.set(drivername=_ASYNC_DRIVERS[family])


class Database:
    def __init__(self, url: str) -> None:
        self.url = async_url(url)
        self.is_sqlite = self.url.drivername.startswith("sqlite")
        self.engine = _create_engine(self.url, self.is_sqlite)
        self._writer = self.engine.execution_options(parakh_write=True)
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        with _as_unavailable():
            async with AsyncSession(self.engine, expire_on_commit=False) as session, session.begin():
                yield session

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        turn: contextlib.AbstractAsyncContextManager[Any] = self._turn if self.is_sqlite else contextlib.nullcontext()
        with _as_unavailable():
            async with turn, AsyncSession(self._writer, expire_on_commit=False) as session, session.begin():
                yield session

    async def lock(self, session: AsyncSession, kind: str, name: str) -> None:
        """Until the transaction ends no other writer holds (kind, name). SQLite has one writer anyway.

        Order, so that none waits for the other: post, then key, then media.
        """
        if not self.is_sqlite:
            statement = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
            await session.execute(statement, {"name": f"{kind}:{name}"})

    async def close(self) -> None:
        await self.engine.dispose()


def _create_engine(url: URL, is_sqlite: bool) -> AsyncEngine:
    if not is_sqlite:
        return create_async_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=10, pool_timeout=BUSY_TIMEOUT_S)
    engine = create_async_engine(url, pool_size=8, max_overflow=0, pool_timeout=BUSY_TIMEOUT_S)
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("parakh_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextlib.contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
        log.warning("the database does not answer: %s", error)
        raise RecordsUnavailable from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise RecordsUnavailable from error
        raise
