"""The queue: oldest first, one holder at a time, nothing lost with its worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from deployments.runtime.errors import NodeUnavailable
from serve_app.http.errors import error_object
from serve_app.records import Records
from serve_app.records.errors import LeaseLost
from serve_app.records.jobs import JobStore
from tests.records.conftest import submission, verdict_for

FAILURE = error_object(NodeUnavailable())


async def enqueue(records: Records, *post_ids: str) -> None:
    for post_id in post_ids:
        await records.posts.accept(submission(post_id), lease_s=None)


async def test_oldest_first_and_each_once(records: Records) -> None:
    await enqueue(records, "p1", "p2", "p3")
    first = await records.jobs.claim(60, limit=2)
    second = await records.jobs.claim(60, limit=2)
    assert [lease.post.post_id for lease in (*first, *second)] == ["p1", "p2", "p3"]
    assert await records.jobs.claim(60) == []


async def test_the_oldest_post_first_however_late_it_came(records: Records) -> None:
    for post_id, days in (("newer", 2), ("oldest", 0), ("old", 1)):
        asked = submission(post_id)
        aged = asked.post.model_copy(update={"created_at": asked.post.created_at + timedelta(days=days)})
        await records.posts.accept(replace(asked, post=aged), lease_s=None)
    assert (await records.jobs.state()).oldest_post == submission().post.created_at
    claimed = await records.jobs.claim(60, limit=3)
    assert [lease.post.post_id for lease in claimed] == ["oldest", "old", "newer"]


async def test_workers_in_parallel_never_hold_the_same_job(records: Records, open_records: Callable[[], Any]) -> None:
    await enqueue(records, *(f"p{n}" for n in range(30)))
    workers = [records, await open_records(), await open_records()]
    claims = await asyncio.gather(*(workers[n % 3].jobs.claim(60, limit=4) for n in range(9)))
    held = [lease.post.post_id for claim in claims for lease in claim]
    assert len(held) == len(set(held)) >= 20  # a claimer that meets locked rows may go away with fewer


async def test_a_job_of_a_dead_worker_is_claimed_again(records: Records) -> None:
    await enqueue(records, "p1")
    (dead,) = await records.jobs.claim(0.01)
    await asyncio.sleep(0.05)
    (alive,) = await records.jobs.claim(60)
    assert (alive.token != dead.token, alive.attempts) == (True, 2)
    assert await records.jobs.renew(dead, 60) is False


async def test_renewal_keeps_the_job(records: Records) -> None:
    await enqueue(records, "p1")
    (lease,) = await records.jobs.claim(0.2)
    assert await records.jobs.renew(lease, 60)
    await asyncio.sleep(0.25)
    assert await records.jobs.claim(60) == []


async def test_a_retry_waits_for_its_time(records: Records) -> None:
    await enqueue(records, "p1")
    (lease,) = await records.jobs.claim(60)
    await records.jobs.end_attempt(lease, FAILURE, 0.2)
    assert await records.jobs.claim(60) == []
    assert (await records.posts.find("p1")).error == FAILURE
    await asyncio.sleep(0.25)
    (again,) = await records.jobs.claim(60)
    assert again.attempts == 2


async def test_an_attempt_cut_short_by_its_own_worker_does_not_count(records: Records) -> None:
    await enqueue(records, "p1")
    (lease,) = await records.jobs.claim(60)
    await records.jobs.give_back(lease)
    assert (await records.jobs.claim(60))[0].attempts == 1


async def test_an_error_that_may_pass_ends_only_what_no_202_promised(records: Records) -> None:
    for post_id, promised in (("asked", False), ("promised", True)):
        if promised:
            await enqueue(records, post_id)
        ticket = await records.posts.accept(submission(post_id), lease_s=60)
        assert ticket.lease is not None
        await records.jobs.end_attempt(ticket.lease, FAILURE, 0.0, counts=False)
    assert (await records.posts.find("asked")).status == "failed"
    state = await records.posts.find("promised")
    assert (state.status, state.attempts, state.error) == ("pending", 0, FAILURE)


async def test_a_202_for_a_post_that_is_being_judged_is_a_promise_too(records: Records) -> None:
    ticket = await records.posts.accept(submission(), lease_s=60)
    assert (await records.posts.accept(submission(), lease_s=None)).state == "running"
    assert ticket.lease is not None
    await records.jobs.end_attempt(ticket.lease, FAILURE, 0.0)
    assert (await records.posts.find("p1")).status == "pending"


async def test_what_a_worker_took_over_from_a_dead_server_is_tried_again(records: Records) -> None:
    await records.posts.accept(submission(), lease_s=0.01)
    await asyncio.sleep(0.05)
    (lease,) = await records.jobs.claim(60)
    await records.jobs.end_attempt(lease, FAILURE, 0.0)
    assert (await records.posts.find("p1")).status == "pending"


class SlowCommits:
    """A database whose transactions take their time between work and commit."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.at_commit = inner, asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def write(self, work: Callable[[Session], Any]) -> Any:
        loop = asyncio.get_running_loop()

        def slow(session: Session) -> Any:
            result = work(session)
            session.flush()
            loop.call_soon_threadsafe(self.at_commit.set)
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text("SELECT pg_sleep(0.3)"))
            else:
                time.sleep(0.3)
            return result

        return await self.inner.write(slow)


async def test_what_a_worker_is_claiming_is_neither_leased_nor_ended_by_another(records: Records) -> None:
    slow: Any = SlowCommits(records._database)
    ticket = await records.posts.accept(submission("p1"), lease_s=0.01)
    await enqueue(records, "p2")
    await asyncio.sleep(0.05)
    assert ticket.lease is not None
    claiming = asyncio.create_task(JobStore(slow).claim(60, limit=2))
    await slow.at_commit.wait()
    late, renewed, _ = await asyncio.gather(
        records.posts.accept(submission("p2"), lease_s=60),
        records.jobs.renew(ticket.lease, 60),
        records.jobs.end_attempt(ticket.lease, FAILURE),
    )
    with pytest.raises(LeaseLost):
        await records.posts.conclude(ticket.lease, verdict_for(submission("p1")))
    assert len(await claiming) == 2
    assert (late.state, renewed) == ("running", False)
    assert (await records.posts.find("p1")).status == "running"


async def test_a_lost_lease_can_neither_fail_nor_retry_the_job(records: Records) -> None:
    await enqueue(records, "p1")
    (dead,) = await records.jobs.claim(0.01)
    await asyncio.sleep(0.05)
    (alive,) = await records.jobs.claim(60)
    await records.jobs.end_attempt(dead, FAILURE)
    await records.jobs.give_back(dead)
    assert (await records.posts.find("p1")).status == "running"
    await records.posts.conclude(alive, verdict_for(submission()))
    assert (await records.posts.find("p1")).status == "done"


async def test_the_queue_says_how_much_waits_and_since_when(records: Records) -> None:
    assert (await records.jobs.state()).oldest_unfinished is None
    await enqueue(records, "p1", "p2")
    (lease,) = await records.jobs.claim(60)
    await records.jobs.end_attempt(lease, FAILURE)
    state = await records.jobs.state()
    assert (state.unfinished, state.failed) == (1, 1)
    assert state.oldest_unfinished == (await records.posts.find("p2")).received_at
