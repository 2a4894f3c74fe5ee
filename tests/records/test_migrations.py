"""The packaged migrations make exactly the tables the code describes, once, however many processes start."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
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
from serve_app.records.values import Conclusion
from tests.records.conclusions import REFUSAL, concluded, judged_post, message
from tests.records.conftest import submission, verdict_for


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, Table.metadata))


async def test_migrations_and_tables_agree(bare_url: str) -> None:
    await upgrade(bare_url)
    database = open_database(bare_url)
    assert await database.read(lambda session: differences(session.connection())) == []
    await database.close()


async def test_down_and_up_again(bare_url: str) -> None:
    await upgrade(bare_url)
    database = open_database(bare_url)
    await database.write(lambda session: command.downgrade(alembic_config(session.connection()), "base"))
    left = await database.read(lambda session: inspect(session.connection()).get_table_names())
    assert left == ["alembic_version"]
    await database.close()
    await upgrade(bare_url)


async def test_what_was_there_before_the_event_path_stays(bare_url: str) -> None:
    """Rows of schema 0002, in the words of that time: they get their types and ages, and may go back."""
    await upgrade(bare_url, "0002")
    database = open_database(bare_url)
    await database.write(lambda session: [session.execute(text(line)) for line in _AT_0002] and None)
    await upgrade(bare_url)
    records = await Records.open(bare_url)
    events = await records.outbox.pending()
    assert [(event.topic, event.type) for event in events] == [
        ("parakh.verdicts", "parakh.post.judged"),
        ("parakh.references", "parakh.reference.quarantined"),
    ]
    state = await records.jobs.state()
    assert (state.unfinished, state.failed, state.oldest_post) == (1, 1, datetime(2026, 11, 1, tzinfo=UTC))
    (lease,) = await records.jobs.claim(60)
    await records.posts.conclude(lease, verdict_for(submission("p1")))
    dead = Conclusion(message(), None, REFUSAL)
    await records.events.conclude([concluded(judged_post("p9")), dead])
    await records.close()
    await database.write(lambda session: command.downgrade(alembic_config(session.connection()), "0002"))
    left = await database.read(lambda session: session.execute(text("SELECT key FROM outbox ORDER BY id")).all())
    assert [row.key for row in left] == ["p0", "r1", "p1", "p9"]
    await database.close()
    await upgrade(bare_url)


_AT_0002 = (
    "INSERT INTO posts (post_id, revision, author_id, content_type, created_at, received_at, content, fingerprint) "
    "VALUES ('p1', 0, 'a1', 'text', '2026-11-01 00:00:00.000000+00:00', '2026-11-02 00:00:00.000000+00:00', "
    """'{"post_id": "p1", "author_id": "a1", "content_type": "text", "created_at": "2026-11-01T00:00:00Z"}', 'f1'), """
    "('p2', 0, 'a1', 'text', '2026-10-01 00:00:00.000000+00:00', '2026-11-02 00:00:00.000000+00:00', '{}', 'f2')",
    "INSERT INTO jobs (post_id, revision, status, created_at, available_at, attempts, durable) VALUES "
    "('p1', 0, 'pending', '2026-11-02 00:00:00.000000+00:00', '2026-11-02 00:00:00.000000+00:00', 0, TRUE), "
    "('p2', 0, 'failed', '2026-11-02 00:00:00.000000+00:00', '2026-11-02 00:00:00.000000+00:00', 3, TRUE)",
    "INSERT INTO outbox (event_id, topic, key, payload, created_at, attempts) VALUES "
    "('e1', 'parakh.verdicts', 'p0', '{}', '2026-11-02 00:00:00.000000+00:00', 0), "
    "('e2', 'parakh.references', 'r1', '{}', '2026-11-02 00:00:00.000000+00:00', 0)",
)


async def test_several_starts_at_once(bare_url: str) -> None:
    await asyncio.gather(*(upgrade(bare_url) for _ in range(5)))
    records = await Records.open(bare_url)
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
