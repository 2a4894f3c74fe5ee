"""Works off accepted posts: claim -> moderate -> conclude, as a task beside the HTTP server; and keeps house.

Any number of workers in any number of processes share the queue. A worker renews its leases while it works; when its
process dies they run out and another worker takes over, so a post is judged at least once and has one verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from deployments.runtime.errors import (
    DeadlineExceeded,
    FetchFailed,
    NodeUnavailable,
    Overloaded,
    ParakhError,
)
from deployments.runtime.values import ContentType, Modality
from serve_app.housekeeping import keep_house, watch_ages
from serve_app.http.errors import error_object
from serve_app.http.services import Services
from serve_app.http.settings import JobSettings
from serve_app.media_store import MediaMissing
from serve_app.posts import MediaSource, Verdict
from serve_app.reconciler import keep_reconciled
from serve_app.records.errors import LeaseLost, PostErased
from serve_app.records.jobs import JobStore
from serve_app.records.values import Lease

log = logging.getLogger(__name__)
T = TypeVar("T")
RETRYABLE = (NodeUnavailable, Overloaded, DeadlineExceeded, FetchFailed)


class AttemptsExhausted(ParakhError):
    code = "attempts_exhausted"
    message = "The post could not be judged: every attempt ended with its worker."


async def attempt(
    services: Services,
    lease: Lease,
    media: MediaSource | None,
    deadline_s: float,
    *,
    wait_for_nodes: bool = False,
    without: frozenset[Modality] = frozenset(),
) -> Verdict:
    """Judge the post and store the verdict; returns the one that stands. Raises ParakhError."""
    if media is None:
        media = await _media_of(services, lease)
    try:
        async with asyncio.timeout(deadline_s):
            judgement = await services.moderator.judge(
                lease.post, media, deadline_s=deadline_s, wait_for_nodes=wait_for_nodes, without=without
            )
    except TimeoutError:
        raise DeadlineExceeded from None
    verdict = judgement.verdict
    if not all(math.isfinite(score) for score in (verdict.nsfw_score, *verdict.category_scores.values())):
        raise ParakhError  # a verdict that JSON cannot hold must not be stored
    content = judgement.content if services.index is not None else None
    stands = await services.records.posts.conclude(lease, verdict, content, judgement.copy_of)
    services.promise.note(verdict)
    if services.ages is not None:
        services.ages.judged("post", verdict.age_s)
    if services.outgoing is not None:
        services.outgoing.wake()
    return stands


async def _media_of(services: Services, lease: Lease) -> MediaSource | None:
    if lease.media_sha256 is not None:
        return MediaSource(data=await services.media_store.get(lease.media_sha256))
    if lease.media_url is not None:
        return MediaSource(url=lease.media_url)
    if lease.post.content_type is not ContentType.TEXT:
        raise MediaMissing  # past its retention
    return None


async def settle(services: Services, lease: Lease, error: ParakhError, *, counts: bool = True) -> None:
    """After an attempt that ended in `error`: what may pass is tried again where the queue answers for the post.

    `counts` False: the attempt was a client's, not the queue's, and uses up none of the queue's.
    """
    settings = services.settings.jobs
    again = isinstance(error, RETRYABLE) or type(error) is ParakhError
    left = not counts or lease.attempts < settings.max_attempts
    pause_s = retry_delay_s(settings, lease.attempts, error) if again and left else None
    await services.records.jobs.end_attempt(lease, error_object(error), pause_s, counts=counts)


@contextlib.asynccontextmanager
async def kept_alive(jobs: JobStore, lease: Lease, lease_s: float) -> AsyncIterator[None]:
    """Renews the lease; raises LeaseLost into the work where it went to another worker."""
    work, lost = asyncio.current_task(), False
    assert work is not None

    async def renew() -> None:
        nonlocal lost
        while True:
            await asyncio.sleep(lease_s / 3)
            with contextlib.suppress(NodeUnavailable):  # a database away for a moment: try again next time
                if not await jobs.renew(lease, lease_s):
                    lost = True
                    work.cancel()
                    return

    heartbeat = asyncio.create_task(renew())
    try:
        yield
    except asyncio.CancelledError:
        if not lost:
            raise
        work.uncancel()
        raise LeaseLost from None
    finally:
        heartbeat.cancel()


async def whole(work: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[None]]) -> T:
    """The result of `work`, which a cancellation does not break off: it is undone instead."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):  # what fails leaves nothing to undo, or a lease that runs out
            await undo(await task)
        raise


class JobWorker:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings.jobs
        self._jobs = services.records.jobs
        self._running: dict[asyncio.Task[None], Lease] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self._loop: asyncio.Task[None] | None = None
        self._beside: list[asyncio.Task[None]] = []  # what nobody waits for

    def start(self) -> None:
        if self._loop is None and self._settings.concurrency > 0:
            self._loop = asyncio.create_task(self._run(), name="job worker")
            self._beside = [asyncio.create_task(keep_house(self._services.house), name="housekeeping")]
            if self._services.ages is not None:
                watching = watch_ages(self._services.records.jobs, self._services.ages)
                self._beside.append(asyncio.create_task(watching, name="age watch"))
            if self._services.index is not None:
                self._beside.append(asyncio.create_task(keep_reconciled(self._services), name="reconciler"))

    async def stop(self) -> None:
        """Give back what is running, for another worker to take at once."""
        self._stopping = True
        leases = list(self._running.values())
        tasks = [*self._running, *self._beside, *([self._loop] if self._loop is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._give_back(leases)  # here and not in the tasks: one cancelled before its first step runs no line
        self._loop, self._beside, self._stopping = None, [], False

    def wake(self) -> None:
        """A job was just accepted: do not wait for the next look at the queue."""
        self._wake.set()

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                claimed = await self._claim()
            except Exception:  # the edge of the task: the queue outlives a sick database
                log.exception("the job queue could not be read")
                claimed = 0
            if not claimed:
                with contextlib.suppress(TimeoutError):  # not wait_for: in 3.11 it can swallow a cancellation
                    async with asyncio.timeout(self._settings.poll_s):
                        await self._wake.wait()

    async def _claim(self) -> int:
        free = self._settings.concurrency - len(self._running)
        if free <= 0:
            return 0
        leases = await whole(self._jobs.claim(self._settings.lease_s, free), self._give_back)
        for lease in leases:
            task = asyncio.create_task(self._work(lease))
            self._running[task] = lease
            task.add_done_callback(self._finished)
        return len(leases)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("a job's outcome could not be stored; its lease will run out", exc_info=task.exception())

    async def _give_back(self, leases: list[Lease]) -> None:
        for lease in leases:
            await self._jobs.give_back(lease)

    async def _work(self, lease: Lease) -> None:
        if lease.attempts > self._settings.max_attempts:
            await self._jobs.end_attempt(lease, error_object(AttemptsExhausted()))
        else:
            await self._attempt(lease)

    async def _attempt(self, lease: Lease) -> None:
        """A modality whose node is down can wait, until the last attempt or the post's deadline: then the post is
        judged without it."""
        plan = self._services.promise.plan(lease.post.created_at)
        more = lease.attempts < self._settings.max_attempts and plan.wait_for_nodes
        try:
            async with kept_alive(self._jobs, lease, self._settings.lease_s):
                await attempt(
                    self._services,
                    lease,
                    None,
                    self._settings.deadline_s,
                    wait_for_nodes=more,
                    without=plan.without,
                )
        except (LeaseLost, PostErased):
            log.info("post %r revision %d: no longer this worker's", lease.post.post_id, lease.post.revision)
        except ParakhError as error:
            await settle(self._services, lease, error)
        except Exception:  # the edge of a job: one bad post must not end the worker
            log.exception("post %r revision %d failed", lease.post.post_id, lease.post.revision)
            await settle(self._services, lease, ParakhError())


def retry_delay_s(settings: JobSettings, attempts: int, error: ParakhError) -> float:
    """Exponential, with jitter so that many jobs of one outage do not come back at once."""
    pause: float = min(settings.retry_max_s, settings.retry_base_s * 2 ** (attempts - 1))
    asked = error.retry_after_s if isinstance(error, Overloaded) else 0.0
    return max(asked, pause * random.uniform(0.5, 1.0))  # noqa: S311
