"""One database, two ways in: `read` and `write`, each running a plain function over a session in one transaction.

SQLite: the function runs in a thread, with the standard library's driver; a driver that hops to its thread for every
statement costs four times the processor time for each post. WAL with synchronous=FULL (a commit that was acknowledged
survives a power cut); writers begin with the write lock (BEGIN IMMEDIATE; a deferred transaction that upgrades fails at
once under load) and queue in one thread, because SQLite's own waiting is a sleep without order.
PostgreSQL: the function runs on the event loop over asyncpg; `lock` serialises what touches one post by an advisory
lock that ends with the transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sqlalchemy import URL, Connection, ExceptionContext, create_engine, event, make_url, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from deployments.runtime.errors import NodeUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[[Session], T]
BUSY_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 10.0  # a machine that is gone answers no packet: without it each attempt takes minutes
COMMAND_TIMEOUT_S = 60.0
"""Of one statement: longer than any waits for a lock or works here, and shorter than TCP needs to give up a connection
whose other end is gone (15 min on Linux), during which a consumer would hold its messages and a door its callers."""
SQLITE_READERS = 4
LOCK_ORDER = ("event", "letter", "post", "stream", "key", "media", "reference")
_LOCK_ALL = text(  # the rows of unnest come in the order of the array
    "SELECT count(pg_advisory_xact_lock(hashtextextended(name, 0))) FROM unnest(CAST(:names AS text[])) AS name"
)
# SQLSTATE classes: connection, transaction rollback, resources, object state, operator's intervention, system error;
# and what a standby says that is not yet, or no longer, the primary, or a server that broke off an idle transaction
_PASSING = ("08", "40", "53", "55", "57", "58", "25006", "25P03")
_DATA_FAULTS = ("22", "23")  # data exception, integrity constraint
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
# the timeout first: going over to WAL may have to wait for another process that is making the tables
_PRAGMAS = (f"busy_timeout={int(BUSY_TIMEOUT_S * 1000)}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")


class RecordsUnavailable(NodeUnavailable):
    message = "The database does not answer."


class Database(Protocol):
    url: URL

    async def read(self, work: Work[T]) -> T:
        """Raises RecordsUnavailable, and what `work` raises."""
        ...

    async def write(self, work: Work[T]) -> T:
        """Committed when `work` returns, rolled back when it raises."""
        ...

    def lock(self, session: Session, kind: str, name: str) -> None:
        """Until the transaction ends no other writer holds (kind, name). Who takes several keeps to `LOCK_ORDER`, and
        within a kind to the order of the names, or two writers wait for each other.
        """
        ...

    def lock_all(self, session: Session, names: Iterable[tuple[str, str]]) -> None:
        """All of them, in their order, in one statement."""
        ...

    async def close(self) -> None: ...


def open_database(url: str | URL, *, command_timeout_s: float | None = COMMAND_TIMEOUT_S) -> Database:
    """ValueError for anything but SQLite files and PostgreSQL. Connects on first use.

    `command_timeout_s`: of one statement on PostgreSQL; None: as long as it takes.
    """
    parsed = database_url(url)
    return SqliteDatabase(parsed) if parsed.drivername == "sqlite" else PostgresDatabase(parsed, command_timeout_s)


def database_url(url: str | URL) -> URL:
    """The URL with the driver this project uses, whichever it names."""
    parsed = make_url(url)
    family = parsed.drivername.partition("+")[0]
    if family not in _DRIVERS:
        raise ValueError(f"records in {family!r}: give a sqlite:/// or postgresql:// URL")
    if family == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError("records in memory would be forgotten: give a file, for instance sqlite:///parakh.db")
    return parsed.set(drivername=_DRIVERS[family])


class SqliteDatabase:
    def __init__(self, url: URL) -> None:
        self.url = url
        self._engine = create_engine(
            url, pool_size=SQLITE_READERS + 1, pool_timeout=BUSY_TIMEOUT_S, hide_parameters=True
        )
        self._writer = self._engine.execution_options(parakh_write=True)
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="records-write")
        self._read_threads = ThreadPoolExecutor(SQLITE_READERS, thread_name_prefix="records-read")
        event.listen(self._engine, "connect", _set_pragmas)
        event.listen(self._engine, "begin", _begin)

    async def read(self, work: Work[T]) -> T:
        return await self._in_thread(self._read_threads, self._engine, work)

    async def write(self, work: Work[T]) -> T:
        return await self._in_thread(self._write_thread, self._writer, work)

    def lock(self, session: Session, kind: str, name: str) -> None:
        """The write lock is held already."""

    def lock_all(self, session: Session, names: Iterable[tuple[str, str]]) -> None:
        """The write lock is held already."""

    async def close(self) -> None:
        """Waits for what runs; its threads end with it."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for threads in (self._write_thread, self._read_threads):
            threads.shutdown()
        self._engine.dispose()

    @staticmethod
    async def _in_thread(threads: ThreadPoolExecutor, engine: Any, work: Work[T]) -> T:
        def transaction() -> T:
            session = Session(engine, expire_on_commit=False)
            with _as_unavailable(), session, session.begin():
                return work(session)

        return await asyncio.get_running_loop().run_in_executor(threads, transaction)


class PostgresDatabase:
    def __init__(self, url: URL, command_timeout_s: float | None = COMMAND_TIMEOUT_S) -> None:
        self.url = url
        self._engine = create_async_engine(
            url,
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=10,
            pool_timeout=BUSY_TIMEOUT_S,
            hide_parameters=True,  # a failure's text goes into logs; captions do not
            connect_args={"timeout": CONNECT_TIMEOUT_S, "command_timeout": command_timeout_s},
        )
        event.listen(self._engine.sync_engine, "handle_error", _give_up_where_it_hangs)

    async def read(self, work: Work[T]) -> T:
        return await self.write(work)

    async def write(self, work: Work[T]) -> T:
        with _as_unavailable():
            async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
                return await session.run_sync(work)

    def lock(self, session: Session, kind: str, name: str) -> None:
        statement = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
        session.execute(statement, {"name": f"{kind}:{name}"})

    def lock_all(self, session: Session, names: Iterable[tuple[str, str]]) -> None:
        ordered = sorted(set(names), key=lambda name: (LOCK_ORDER.index(name[0]), name[1].encode()))
        if ordered:
            session.execute(_LOCK_ALL, {"names": [f"{kind}:{name}" for kind, name in ordered]})

    async def close(self) -> None:
        await self._engine.dispose()


def _give_up_where_it_hangs(context: ExceptionContext) -> None:
    """A connection that did not answer in time is cut off at once: a rollback or an orderly end would wait as well."""
    if not isinstance(context.original_exception, TimeoutError) or context.connection is None:
        return
    context.is_disconnect = True
    driver = context.connection.connection.driver_connection
    if driver is not None:
        driver.terminate()


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
        if error.connection_invalidated or _sqlstate(error).startswith(_PASSING):
            log.warning("the database does not answer: %s", error)
            raise RecordsUnavailable from error
        raise


def is_fault_of_data(error: Exception) -> bool:
    """Whether a transaction failed for what was to be written, and will again: not for the state of the database."""
    if isinstance(error, DBAPIError):
        return isinstance(error, (IntegrityError, DataError)) or _sqlstate(error).startswith(_DATA_FAULTS)
    return isinstance(error, (StatementError, ValueError, TypeError, LookupError, ArithmeticError))


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""
