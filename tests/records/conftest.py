"""The same suite on both databases. PostgreSQL where PARAKH_TEST_POSTGRES_URL names an empty database for it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deployments.runtime.values import ContentType
from serve_app.http.fakes import verdict_of
from serve_app.posts import Post, Verdict
from serve_app.records import Records
from serve_app.records.values import Submission
from tests.databases import emptied, sqlite_url, without_schema

POSTGRES_URL = os.environ.get("PARAKH_TEST_POSTGRES_URL")


def postgres_url() -> str:
    if POSTGRES_URL is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PARAKH_TEST_POSTGRES_URL is not set: CI must not skip PostgreSQL")
        pytest.skip("PARAKH_TEST_POSTGRES_URL is not set")
    return POSTGRES_URL


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a row, at the newest schema."""
    return sqlite_url(tmp_path) if request.param == "sqlite" else await emptied(postgres_url())


@pytest.fixture(params=["sqlite", "postgresql"])
async def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bare.db"
    return await without_schema(postgres_url())


@pytest.fixture
async def open_records(url: str) -> AsyncIterator[Callable[[], Any]]:
    """Opens records on the same database as often as asked: what another process, or the next one, would see."""
    opened: list[Records] = []

    async def open_again() -> Records:
        opened.append(await Records.open(url))
        return opened[-1]

    yield open_again
    for records in opened:
        await records.close()


@pytest.fixture
async def records(open_records: Callable[[], Any]) -> Records:
    found: Records = await open_records()
    return found


def submission(post_id: str = "p1", caption: str = "good morning", **changes: Any) -> Submission:
    revision = changes.pop("revision", 0)
    post = Post(
        post_id=post_id,
        author_id="a1",
        content_type=ContentType.TEXT,
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
        caption=caption,
        revision=revision,
    )
    given: dict[str, Any] = {"post": post, "fingerprint": f"{post_id}:{caption}"}
    return Submission(**(given | changes))


def verdict_for(asked: Submission, policy_version: str = "1") -> Verdict:
    return verdict_of(asked.post, None, policy_version)


async def judged(records: Records, asked: Submission, policy_version: str = "1") -> Verdict:
    ticket = await records.posts.accept(asked, lease_s=60, policy_version=policy_version)
    assert ticket.lease is not None
    return await records.posts.conclude(ticket.lease, verdict_for(asked, policy_version))
