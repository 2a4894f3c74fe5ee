"""The reference bank, its flood limit, and which earlier verdict may stand for an exact re-upload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from deployments.runtime.values import ContentType
from deployments.similarity.content import Content, ContentVector, EncoderId
from serve_app.posts import MatchReport, SimilarityReport, Verdict
from serve_app.records import Records, known
from serve_app.records.errors import ReferenceExists, ReferenceNotFound
from serve_app.records.references import FloodLimit, Reference
from serve_app.similarity import SameContent
from tests.records.conftest import submission, verdict_for

SHA256 = "ab" * 32


@pytest.fixture
async def records(url: str) -> AsyncIterator[Records]:
    found = Records(url, FloodLimit(max_posts=2, window_s=3600))
    await found.start()
    yield found
    await found.close()


def reference(id_: str = "r1", **changes: Any) -> Reference:
    given: dict[str, Any] = {
        "reference_id": id_,
        "kind": "protected",
        "owner": "a studio",
        "policy": "block",
        "title": None,
        "enabled": True,
        "created_at": datetime.now(UTC),
        "quarantined_at": None,
        "quarantine_reason": None,
    }
    return Reference(**(given | changes))


def content(id_: str = "r1") -> Content:
    vector = ContentVector(EncoderId("clip", "1"), np.ones(4, np.float32))
    return Content(id=id_, content_type="image", vectors={"visual": vector})


def matching(verdict: Verdict, reference_id: str = "r1") -> Verdict:
    match = MatchReport(
        use="protected", id=reference_id, partition=None, stage="pdq", cosine=None, distance=1, threshold=31
    )
    return verdict.model_copy(update={"matches": [match]})


async def judge(records: Records, post_id: str, change: Any = lambda verdict: verdict, **fields: Any) -> None:
    asked = submission(post_id, **fields)
    ticket = await records.posts.accept(asked, lease_s=60)
    assert ticket.lease is not None
    verdict = verdict_for(asked).model_copy(update={"similarity": SimilarityReport(status="ok")})
    await records.posts.conclude(ticket.lease, change(verdict), content(post_id))


async def ops(records: Records, bank: str = "protected") -> list[str]:
    jobs = await records.index_jobs.claim(100, busy_s=60)
    await records.index_jobs.finish(jobs)
    return [job.op for job in jobs if job.bank == bank]


async def test_the_index_holds_exactly_the_references_that_act(records: Records) -> None:
    await records.references.create(reference(), content(), "me")
    assert await ops(records) == ["index"]
    await records.references.change("r1", "me", enabled=False)
    assert await ops(records) == ["remove"]
    await records.references.change("r1", "me", enabled=True)
    (job,) = await records.index_jobs.claim(1, busy_s=60)
    assert job.content is not None
    assert job.content.attributes == {"owner": "a studio", "policy": "block"}
    await records.index_jobs.finish([job])
    await records.references.delete("r1", "me")
    assert await ops(records) == ["remove"]


async def test_an_id_is_taken_once_and_unknown_ones_are_said(records: Records) -> None:
    await records.references.create(reference(), content(), "me")
    with pytest.raises(ReferenceExists):
        await records.references.create(reference(owner="another"), content(), "me")
    for call in (records.references.find("r9"), records.references.delete("r9", "me")):
        with pytest.raises(ReferenceNotFound):
            await call


async def test_the_first_changes_of_a_bank_may_come_together(records: Records) -> None:
    ids = [f"r{number}" for number in range(8)]
    await asyncio.gather(*(records.references.create(reference(id_), content(id_), "me") for id_ in ids))
    assert [found.reference_id for found in await records.references.list()] == ids


async def test_more_distinct_posts_than_allowed_quarantine_a_reference(records: Records) -> None:
    await records.references.create(reference(), content(), "me")
    for revision in range(3):
        await judge(records, "p1", matching, revision=revision)
    await judge(records, "p0", matching)
    assert (await records.references.find("r1")).acts
    await judge(records, "p2", matching)
    found = await records.references.find("r1")
    assert not found.acts
    assert found.quarantine_reason is not None
    assert [found.reference_id for found in await records.references.list(quarantined=True)] == ["r1"]
    assert (await ops(records))[-1:] == ["remove"]
    lifted = await records.references.change("r1", "me", quarantined=False)
    assert lifted.acts
    await judge(records, "p3", matching)
    assert (await records.references.find("r1")).acts


async def test_old_matches_are_forgotten(records: Records) -> None:
    await records.references.create(reference(), content(), "me")
    await judge(records, "p0", matching)
    await judge(records, "p1", matching)
    await records.references.forget_matches(0)
    await judge(records, "p2", matching)
    assert (await records.references.find("r1")).acts


def same(post_id: str = "new", **changes: Any) -> SameContent:
    given: dict[str, Any] = {
        "post_id": post_id,
        "media_sha256": SHA256,
        "content_type": ContentType.TEXT,
        "caption": "good morning",
        "language": None,
        "policy_version": "1",
    }
    return SameContent(**(given | changes))


async def test_the_verdict_on_the_same_content_is_found(records: Records) -> None:
    await judge(records, "p1", media_sha256=SHA256)
    found = await records.known.original(same())
    assert found is not None
    assert found.post_id == "p1"


@pytest.mark.parametrize(
    "changes",
    [
        {"post_id": "p1"},
        {"media_sha256": "cd" * 32},
        {"content_type": ContentType.VIDEO},
        {"caption": "other words"},
        {"language": "en"},
        {"policy_version": "2"},
    ],
)
async def test_anything_else_is_no_original(records: Records, changes: dict[str, Any]) -> None:
    await judge(records, "p1", media_sha256=SHA256)
    assert await records.known.original(same(**changes)) is None


@pytest.mark.parametrize("status", ["failed", "off"])
async def test_a_verdict_that_was_not_searched_for_is_not_reused(records: Records, status: str) -> None:
    def unsearched(verdict: Verdict) -> Verdict:
        return verdict.model_copy(update={"similarity": SimilarityReport.model_validate({"status": status})})

    await judge(records, "p1", unsearched, media_sha256=SHA256)
    assert await records.known.original(same()) is None


async def test_a_change_of_references_ends_reuse_until_a_new_verdict(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    await judge(records, "p1", media_sha256=SHA256)
    await records.references.create(reference(), content(), "me")
    assert await records.known.original(same()) is None
    monkeypatch.setattr(known, "SETTLED", timedelta(0))
    await judge(records, "p2", media_sha256=SHA256)
    found = await records.known.original(same())
    assert found is not None
    assert found.post_id == "p2"


async def test_the_newest_action_of_a_post_counts(records: Records) -> None:
    await judge(records, "p1")
    await judge(records, "p1", caption="violence", revision=1)
    assert await records.known.actions({"p1", "p9"}) == {"p1": "block"}
    assert await records.known.actions(set()) == {}
