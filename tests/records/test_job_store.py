"""The queue: oldest first, one holder at a time, nothing lost with its worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from deployments.runtime.errors import NodeUnavailable
from serve_app.http.errors import error_object
from serve_app.records import Records
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
    await records.jobs.retry(lease, FAILURE, delay_s=0.2)
    assert await records.jobs.claim(60) == []
    assert (await records.posts.find("p1")).error == FAILURE
    await asyncio.sleep(0.25)
    (again,) = await records.jobs.claim(60)
    assert again.attempts == 2


async def test_an_attempt_cut_short_by_its_own_worker_does_not_count(records: Records) -> None:
    await enqueue(records, "p1")
    (lease,) = await records.jobs.claim(60)
    await records.jobs.retry(lease, None)
    assert (await records.jobs.claim(60))[0].attempts == 1


async def test_a_lost_lease_can_neither_fail_nor_retry_the_job(records: Records) -> None:
    await enqueue(records, "p1")
    (dead,) = await records.jobs.claim(0.01)
    await asyncio.sleep(0.05)
    (alive,) = await records.jobs.claim(60)
    await records.jobs.fail(dead, FAILURE)
    await records.jobs.retry(dead, FAILURE)
    assert (await records.posts.find("p1")).status == "running"
    await records.posts.conclude(alive, verdict_for(submission()))
    assert (await records.posts.find("p1")).status == "done"


async def test_the_queue_says_how_much_waits_and_since_when(records: Records) -> None:
    assert (await records.jobs.state()).oldest_unfinished is None
    await enqueue(records, "p1", "p2")
    (lease,) = await records.jobs.claim(60)
    await records.jobs.fail(lease, FAILURE)
    state = await records.jobs.state()
    assert (state.unfinished, state.failed) == (1, 1)
    assert state.oldest_unfinished == (await records.posts.find("p2")).received_at
