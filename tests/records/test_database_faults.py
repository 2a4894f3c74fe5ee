"""Which failures of the database pass, and which are the fault of what was to be written."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Self

import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from serve_app.records import Records, engine
from serve_app.records.engine import RecordsUnavailable, _as_unavailable, is_fault_of_data, open_database
from tests.databases import without_schema
from tests.records.conclusions import concluded, judged_clip, judged_post


@pytest.fixture
def postgres(records: Records) -> Records:
    if records._database.url.drivername == "sqlite":
        pytest.skip("PostgreSQL's own failures")
    return records


async def test_a_connection_that_is_killed_is_the_database_not_answering(postgres: Records) -> None:
    def die(session: Session) -> None:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(RecordsUnavailable):
        await postgres._database.write(die)
    assert await postgres.events.conclude([concluded(judged_post())]) == ["done"]


async def test_a_deadlock_and_a_lock_that_is_not_given_may_be_tried_again(
    postgres: Records, open_records: Callable[[], Any]
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    database: Any = postgres._database

    async def cross(own: str, other: str, mine: asyncio.Event, theirs: asyncio.Event) -> None:
        with _as_unavailable():
            async with AsyncSession(database._engine) as session, session.begin():
                await session.run_sync(lambda sync: database.lock(sync, "post", own))
                mine.set()
                await theirs.wait()
                await session.run_sync(lambda sync: database.lock(sync, "post", other))

    outcomes = await asyncio.gather(
        cross("a", "b", first, second), cross("b", "a", second, first), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "RecordsUnavailable"]

    def impatient(session: Session) -> None:
        session.execute(text("SET LOCAL lock_timeout = '50ms'"))
        session.execute(text("LOCK TABLE posts IN ACCESS EXCLUSIVE MODE"))

    async with AsyncHolder(database):
        with pytest.raises(RecordsUnavailable):
            await database.write(impatient)


class AsyncHolder:
    """Has read from `posts` in a transaction that is open."""

    def __init__(self, database: Any) -> None:
        self._connection = database._engine.connect()

    async def __aenter__(self) -> None:
        connection = await self._connection.__aenter__()
        await connection.execute(text("SELECT 1 FROM posts"))

    async def __aexit__(self, *error: Any) -> None:
        await self._connection.__aexit__(*error)


async def test_a_server_that_only_reads_is_one_that_does_not_answer(postgres: Records) -> None:
    """As one is after a failover, until this side finds the new primary: no message is at fault."""

    def standby(session: Session) -> None:
        session.execute(text("SET TRANSACTION READ ONLY"))
        session.execute(text("DELETE FROM duties"))

    with pytest.raises(RecordsUnavailable):
        await postgres._database.write(standby)


class TestADatabaseThatHangs:
    async def test_a_statement_without_an_answer_ends_in_time(self, postgres: Records) -> None:
        hasty = open_database(postgres._database.url, command_timeout_s=0.3)
        async with asyncio.timeout(10):
            with pytest.raises(RecordsUnavailable):
                await hasty.write(lambda session: session.execute(text("SELECT pg_sleep(20)")) and None)
            await hasty.read(ask)
        await hasty.close()

    async def test_a_connection_that_fell_silent_is_given_up(
        self, postgres: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after a power cut: no packet tells that the other end is gone."""
        monkeypatch.setattr(engine, "CONNECT_TIMEOUT_S", 0.3)
        async with Cable(postgres._database.url) as cable:
            far = open_database(cable.url, command_timeout_s=0.3)

            def cut_off(session: Session) -> None:
                cable.cut()
                ask(session)

            await far.read(ask)
            async with asyncio.timeout(10):
                for work in (cut_off, ask, ask):
                    with pytest.raises(RecordsUnavailable):
                        await far.write(work)
                cable.mend()
                await far.read(ask)
                cable.cut()  # the pooled connection is idle when it happens
                with pytest.raises(RecordsUnavailable):
                    await far.read(ask)
            await far.close()


def ask(session: Session) -> None:
    session.execute(text("SELECT 1"))


class Cable:
    """Between a client and PostgreSQL; `cut`, it takes what it is given and says nothing."""

    def __init__(self, url: URL) -> None:
        self._to = url
        self._intact = True
        self._tasks: list[asyncio.Task[None]] = []
        self.url = url

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._to.set(host="127.0.0.1", port=port)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        self._intact = False

    def mend(self) -> None:
        self._intact = True

    async def _connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        reader, writer = await asyncio.open_connection(self._to.host, self._to.port)
        self._tasks += [asyncio.create_task(self._carry(*way)) for way in ((near, writer), (reader, back))]

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.closing(target):
            while data := await source.read(65536):
                if self._intact:
                    target.write(data)
                    await target.drain()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO duties (name, token, until) VALUES (NULL, 't', '2026-11-01 00:00:00+00:00')",
        "INSERT INTO audit (id, at) VALUES (1, NULL)",
    ],
)
async def test_a_constraint_is_the_fault_of_what_was_written(records: Records, statement: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        await records._database.write(lambda session: session.execute(text(statement)) and None)
    assert is_fault_of_data(caught.value)


async def test_a_schema_that_is_not_there_is_no_messages_fault(records: Records) -> None:
    """Nothing is buried for it: after the repair the same batch is done."""
    rename = "ALTER TABLE clips RENAME TO clips_{}"
    await records._database.write(lambda session: session.execute(text(rename.format("away"))) and None)
    with pytest.raises((RecordsUnavailable, ProgrammingError)):
        await records.events.conclude([concluded(judged_clip())])
    back = "ALTER TABLE clips_away RENAME TO clips"
    await records._database.write(lambda session: session.execute(text(back)) and None)
    assert await records.dead_letters.list() == []
    assert await records.events.conclude([concluded(judged_clip())]) == ["done"]


async def test_a_failure_is_logged_without_what_people_wrote(bare_url: str, caplog: pytest.LogCaptureFixture) -> None:
    secret = "said in confidence"
    records = await Records.open(bare_url)
    await records._database.write(lambda session: session.execute(text("DROP TABLE view_counts")) and None)
    query = text("SELECT * FROM view_counts WHERE post_id = :secret")
    with pytest.raises((RecordsUnavailable, ProgrammingError)) as caught:
        await records._database.read(lambda session: session.execute(query, {"secret": secret}).all())
    assert secret not in caplog.text + str(caught.value) + str(caught.value.__cause__)
    await records.close()
    if bare_url.startswith("postgres"):
        await without_schema(bare_url)  # others keep the schema they find
