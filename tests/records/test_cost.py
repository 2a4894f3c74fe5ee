"""What the event path asks of the database: few statements for a batch, and an index for each query."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from serve_app.records import Records
from serve_app.records.gate_values import HistoryAsk, Opening
from serve_app.records.settings import RetentionSettings
from tests.records.conclusions import AT, concluded, judged_clip, judged_post, views


async def statements(records: Records, work: Callable[[], Awaitable[Any]]) -> list[tuple[str, Any]]:
    database: Any = records._database
    engine = getattr(database._engine, "sync_engine", database._engine)
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    await work()
    event.remove(engine, "before_cursor_execute", note)
    return [found for found in seen if not found[0].startswith(("BEGIN", "PRAGMA"))]


@pytest.mark.parametrize(
    ("works", "most"),
    [
        ([judged_post(f"p{n}") for n in range(8)], 10),  # locks, events, erasures, posts; five tables; the gate's jobs
        ([judged_clip("s1", n) for n in range(8)], 9),
        ([views(1000, f"p{n}") for n in range(8)], 8),
    ],
)
async def test_a_batch_of_eight_costs_as_many_statements_as_one(records: Records, works: list[Any], most: int) -> None:
    one = await statements(records, lambda: records.events.conclude([concluded(works[0], "one")]))
    batch = [concluded(work, f"e{n}") for n, work in enumerate(works[1:])]
    eight = await statements(records, lambda: records.events.conclude(batch))
    again = await statements(records, lambda: records.events.conclude(batch))
    assert len(eight) <= most
    assert len(one) <= most
    assert len(again) <= most


async def every_query(records: Records) -> list[tuple[str, Any]]:
    await records.events.conclude([concluded(judged_post()), concluded(judged_clip()), concluded(views(1000))])
    await records.reviews.open(Opening("p1", 0, "a1", None, "text", AT, 0.5, "gate"))
    since = datetime(2026, 1, 1, tzinfo=UTC)
    queries: list[Callable[[], Awaitable[Any]]] = [
        lambda: records.jobs.claim(60),
        lambda: records.jobs.state(),
        lambda: records.outbox.pending(),
        lambda: records.outbox.oldest_unpublished(),
        lambda: records.webhooks.due(),
        lambda: records.streams.clips("s1", before_start_ms=10),
        lambda: records.streams.highest(since),
        lambda: records.streams.with_action(["block"]),
        lambda: records.dead_letters.list(code="x"),
        lambda: records.dead_letters.list(),
        lambda: records.dead_letters.waiting(),
        lambda: records.retention.sweep(RetentionSettings()),
        lambda: records.gate.claim(10, 60),
        lambda: records.gate.open_jobs("p1", 2000),
        lambda: records.gate.waiting(),
        lambda: records.gate.forget_parked(60),
        lambda: records.reviews.claim("m1", 10),
        lambda: records.reviews.count(),
        lambda: records.authors.histories([HistoryAsk("a1", "p1", since)]),
        lambda: records.recall.kinds(since),
    ]
    return [found for query in queries for found in await statements(records, query)]


async def test_no_query_reads_a_whole_table(records: Records) -> None:
    found = await every_query(records)
    if records._database.url.drivername != "sqlite":
        pytest.skip("PostgreSQL reads small tables whole, rightly; the indexes are the same")

    def plans(session: Session) -> list[str]:
        connection = session.connection()
        return [
            f"{row[3]}: {statement}"
            for statement, parameters in found
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]

    lines = await records._database.read(plans)
    assert lines
    scans = [line for line in lines if line.startswith("SCAN") and not line.startswith("SCAN CONSTANT ROW")]
    assert [line for line in scans if "USING" not in line.partition(":")[0]] == []
    sorted_whole = [line for line in lines if line.startswith("USE TEMP B-TREE FOR ORDER BY")]
    assert sorted_whole == []


async def test_the_queue_is_read_in_order_of_its_index_on_postgresql_too(records: Records) -> None:
    if records._database.url.drivername == "sqlite":
        pytest.skip("seen above")

    def plan(session: Session) -> str:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        session.execute(text("SET LOCAL enable_sort = off"))
        query = (
            "EXPLAIN SELECT * FROM jobs WHERE jobs.status IN ('pending', 'running') AND (jobs.status = 'pending' "
            "AND available_at <= now() OR jobs.status = 'running' AND lease_until <= now()) "
            "ORDER BY post_created_at, created_at LIMIT 1"
        )
        return "\n".join(session.scalars(text(query)))

    assert "ix_jobs_unfinished" in await records._database.read(plan)
