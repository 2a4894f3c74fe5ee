"""What the index is told: once said, the last word counts, and it is said until it was heard."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from deployments.similarity.content import Content, ContentVector, EncoderId, FrameSignatures
from deployments.similarity.values import FrameVectors
from serve_app import content_bytes
from serve_app.records import Records
from serve_app.records.errors import UnderLegalHold
from serve_app.records.similarity_tables import IndexJobRow
from tests.records.conftest import submission, verdict_for


def content(post_id: str = "p1", seed: int = 0) -> Content:
    random = np.random.default_rng(seed)
    frames = FrameVectors(random.normal(size=(3, 8)).astype(np.float16), np.arange(3, dtype=np.float32))
    return Content(
        id=post_id,
        content_type="video",
        language="hi",
        created_at=1.5,
        duration_s=3.25,
        sha256="ab" * 32,
        vectors={
            "visual": ContentVector(EncoderId("clip", "1"), random.normal(size=8).astype(np.float32), frames),
            "text": ContentVector(EncoderId("xlmr", "2"), random.normal(size=4).astype(np.float32)),
        },
        signatures=FrameSignatures(
            random.integers(0, 256, (2, 32), dtype=np.uint8), np.array([90, 40], np.uint8), np.array([0, 1], np.float32)
        ),
        attributes={"revision": 0, "ünï": ["code"]},
    )


async def judged(records: Records, post_id: str = "p1", seed: int = 0, **changes: Any) -> None:
    asked = submission(post_id, **changes)
    ticket = await records.posts.accept(asked, lease_s=60)
    assert ticket.lease is not None
    await records.posts.conclude(ticket.lease, verdict_for(asked), content(post_id, seed))


def same(one: Content, other: Content) -> bool:
    return content_bytes.to_bytes(one) == content_bytes.to_bytes(other)


def test_content_survives_its_bytes() -> None:
    there = content()
    back = content_bytes.from_bytes(content_bytes.to_bytes(there))
    assert same(back, there)
    assert (back.vectors["visual"].encoder, back.attributes) == (EncoderId("clip", "1"), there.attributes)
    assert back.vectors["visual"].frames is not None
    assert back.vectors["visual"].frames.vectors.dtype == np.float16
    bare = Content(id="x", content_type="text")
    assert content_bytes.from_bytes(content_bytes.to_bytes(bare)) == bare


@pytest.mark.parametrize("data", [b"", b"x", b"PK\x03\x04", content_bytes.to_bytes(content())[:-40]])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        content_bytes.from_bytes(data)


async def test_a_verdict_and_its_index_job_are_one(records: Records) -> None:
    await judged(records)
    (job,) = await records.index_jobs.claim(10, busy_s=60)
    assert (job.bank, job.id, job.op, job.attempts) == ("posts", "p1", "index", 1)
    assert job.content is not None
    assert same(job.content, content())
    assert await records.index_jobs.claim(10, busy_s=60) == []
    await records.index_jobs.finish([job])
    assert await records.index_jobs.waiting() == (0, None)


async def test_a_verdict_without_content_tells_the_index_nothing(records: Records) -> None:
    asked = submission()
    ticket = await records.posts.accept(asked, lease_s=60)
    assert ticket.lease is not None
    await records.posts.conclude(ticket.lease, verdict_for(asked))
    assert await records.index_jobs.claim(10, busy_s=60) == []


async def test_an_erasure_is_the_last_word(records: Records) -> None:
    await judged(records)
    await records.erasures.erase("p1", "me")
    (job,) = await records.index_jobs.claim(10, busy_s=60)
    assert (job.op, job.content) == ("remove", None)


async def test_a_word_said_while_an_earlier_one_is_done_waits_for_it(records: Records) -> None:
    await judged(records)
    (first,) = await records.index_jobs.claim(10, busy_s=60)
    await records.erasures.erase("p1", "me")
    assert await records.index_jobs.claim(10, busy_s=60) == []  # the first is still at work
    await records.index_jobs.finish([first])
    (second,) = await records.index_jobs.claim(10, busy_s=60)
    assert second.op == "remove"
    await records.index_jobs.finish([second])
    assert await records.index_jobs.waiting() == (0, None)


async def test_a_failure_of_an_earlier_word_does_not_delay_the_later_one(records: Records) -> None:
    await judged(records)
    (first,) = await records.index_jobs.claim(10, busy_s=60)
    await records.erasures.erase("p1", "me")
    await records.index_jobs.retry(first, "the index was away", pause_s=3600)
    (second,) = await records.index_jobs.claim(10, busy_s=60)
    assert second.op == "remove"


async def test_a_dead_workers_job_is_taken_over(records: Records) -> None:
    await judged(records)
    (first,) = await records.index_jobs.claim(10, busy_s=0.05)
    await asyncio.sleep(0.1)
    (again,) = await records.index_jobs.claim(10, busy_s=60)
    assert (again.token, again.attempts) == (first.token, 2)


async def test_what_failed_comes_back_after_its_pause(records: Records) -> None:
    await judged(records)
    (job,) = await records.index_jobs.claim(10, busy_s=60)
    await records.index_jobs.retry(job, "away", pause_s=0.05)
    assert await records.index_jobs.claim(10, busy_s=60) == []
    await asyncio.sleep(0.1)
    assert [job.attempts for job in await records.index_jobs.claim(10, busy_s=60)] == [2]


@pytest.mark.parametrize("data", [b"", b"not content", content_bytes.to_bytes(content())[:-40]])
async def test_a_job_that_cannot_be_read_fails_alone_until_another_word_is_said(records: Records, data: bytes) -> None:
    for post_id in ("p1", "p2"):
        await judged(records, post_id)
    await spoil(records, "p1", data)
    assert [job.id for job in await records.index_jobs.claim(10, busy_s=0)] == ["p2"]
    assert [job.id for job in await records.index_jobs.claim(10, busy_s=0)] == ["p2"]
    assert (await records.index_jobs.failed(), (await records.index_jobs.waiting())[0]) == (1, 1)
    assert await records.reconciling.tell_again("posts", "p1", content())
    assert sorted(job.id for job in await records.index_jobs.claim(10, busy_s=60)) == ["p1", "p2"]
    assert await records.index_jobs.failed() == 0


async def spoil(records: Records, item_id: str, data: bytes) -> None:
    spoilt = update(IndexJobRow).where(IndexJobRow.item_id == item_id).values(content=data)
    await records._database.write(lambda session: session.execute(spoilt) and None)


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_content_with_changed_bytes_is_read_or_refused(at: int, changed: bytes) -> None:
    data = bytearray(content_bytes.to_bytes(content()))
    data[at % len(data) : at % len(data) + len(changed)] = changed
    with contextlib.suppress(ValueError):
        content_bytes.from_bytes(bytes(data))


async def test_what_the_index_refused_waits_for_other_content(records: Records) -> None:
    await judged(records)
    (job,) = await records.index_jobs.claim(10, busy_s=60)
    assert await records.index_jobs.fail(job, "the vector is zero")
    assert await records.index_jobs.claim(10, busy_s=60) == []
    assert not await records.reconciling.tell_again("posts", "p1", content())
    assert await records.index_jobs.failed() == 1
    await judged(records, revision=1)
    assert len(await records.index_jobs.claim(10, busy_s=60)) == 1


async def test_a_worker_that_only_seemed_dead_is_told_that_it_was_overtaken(records: Records) -> None:
    await judged(records)
    (slow,) = await records.index_jobs.claim(10, busy_s=0)
    await records.erasures.erase("p1", "me")
    (erasure,) = await records.index_jobs.claim(10, busy_s=60)
    assert await records.index_jobs.finish([erasure]) == []
    assert await records.index_jobs.finish([slow]) == [slow]
    assert not await records.index_jobs.retry(slow, "away", 0)
    await records.reconciling.settle("posts", "p1")
    (again,) = await records.index_jobs.claim(10, busy_s=60)
    assert again.op == "remove"


async def test_two_workers_never_have_the_same_job(open_records: Any) -> None:
    records, other = await open_records(), await open_records()
    for number in range(12):
        await judged(records, f"p{number}")
    claims = await asyncio.gather(*(one.index_jobs.claim(4, busy_s=60) for one in (records, other, records, other)))
    ids = [job.id for jobs in claims for job in jobs]
    assert len(ids) == len(set(ids))
    assert len(ids) >= 4


async def test_only_the_newest_revision_is_indexed(records: Records) -> None:
    old, new = submission(revision=0), submission(revision=1)
    ticket_old = await records.posts.accept(old, lease_s=60)
    ticket_new = await records.posts.accept(new, lease_s=60)
    assert ticket_old.lease is not None
    assert ticket_new.lease is not None
    await records.posts.conclude(ticket_new.lease, verdict_for(new), content(seed=1))
    await records.posts.conclude(ticket_old.lease, verdict_for(old), content(seed=0))
    (job,) = await records.index_jobs.claim(10, busy_s=60)
    assert job.content is not None
    assert same(job.content, content(seed=1))


async def test_evidence_is_held_until_it_is_released(records: Records) -> None:
    asked = submission(media_sha256="cd" * 32)
    ticket = await records.posts.accept(asked, lease_s=60)
    assert ticket.lease is not None
    verdict = verdict_for(asked)
    held = verdict.model_copy(update={"decision": verdict.decision.model_copy(update={"legal_hold": True})})
    await records.posts.conclude(ticket.lease, held)
    with pytest.raises(UnderLegalHold):
        await records.erasures.erase("p1", "me")
    await records.garbage.add("cd" * 32)
    deleted: list[str] = []

    async def delete(digest: str) -> None:
        deleted.append(digest)

    await records.garbage.sweep(delete)
    assert deleted == []
    assert [hold.media_sha256 for hold in await records.holds.list()] == ["cd" * 32]
    assert await records.holds.release("p1", "counsel")
    await records.erasures.erase("p1", "me")
    await records.garbage.sweep(delete)
    assert deleted == ["cd" * 32]
