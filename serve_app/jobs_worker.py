"""Works off accepted posts: claim -> moderate -> conclude, as a task beside the HTTP server.

Any number of workers in any number of processes share the queue. A worker renews its leases while it works; when its
process dies they run out and another worker takes over, so a post is judged at least once and has one verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import AsyncIterator

from deployments.runtime.errors import (
    DeadlineExceeded,
    FetchFailed,
    NodeUnavailable,
    Overloaded,
    ParakhError,
)
from serve_app.http.errors import error_object
from serve_app.http.services import Services
from serve_app.http.settings import JobSettings
from serve_app.posts import MediaSource, Verdict
from serve_app.records.errors import LeaseLost, PostErased
from serve_app.records.values import Lease

log = logging.getLogger(__name__)
RETRYABLE = (NodeUnavailable, Overloaded, DeadlineExceeded, FetchFailed)
HOUSEKEEPING_S = 60.0


class AttemptsExhausted(ParakhError):
    code = "attempts_exhausted"
    message = "The post could not be judged: every attempt ended with its worker."


async def attempt(services: Services, lease: Lease, media: MediaSource | None, deadline_s: float) -> Verdict:
    """Judge the post and store the verdict; returns the one that stands. Raises ParakhError."""
    if media is None:
        media = await _media_of(services, lease)
    try:
        async with asyncio.timeout(deadline_s):
            verdict = await services.moderator.moderate(lease.post, media, deadline_s=deadline_s)
    except TimeoutError:
        raise DeadlineExceeded from None
    if not all(math.isfinite(score) for score in (verdict.nsfw_score, *verdict.category_scores.values())):
        raise ParakhError  # a verdict that JSON cannot hold must not be stored
    return await services.records.posts.conclude(lease, verdict)


async def _media_of(services: Services, lease: Lease) -> MediaSource | None:
    if lease.media_sha256 is not None:
        return MediaSource(data=await services.media_store.get(lease.media_sha256))
    return MediaSource(url=lease.media_url) if lease.media_url is not None else None


class JobWorker:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings.jobs
        self._jobs = services.records.jobs
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._loop is None and self._settings.concurrency > 0:
            self._loop = asyncio.create_task(self._run(), name="job worker")

    async def stop(self) -> None:
        """Give back what is running, for another worker to take at once."""
        self._stopping = True
        tasks = [*self._running, *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop, self._stopping = None, False

    def wake(self) -> None:
        """A job was just accepted: do not wait for the next look at the queue."""
        self._wake.set()

    async def _run(self) -> None:
        next_housekeeping = 0.0
        clock = asyncio.get_running_loop().time
        while not self._stopping:
            self._wake.clear()
            try:
                claimed = await self._claim()
                if clock() >= next_housekeeping:
                    next_housekeeping = clock() + HOUSEKEEPING_S
                    await self._clean_up()
            except Exception:  # the edge of the task: the queue outlives a sick database
                log.exception("the job queue could not be read")
                claimed = 0
            if not claimed:
                with contextlib.suppress(TimeoutError):  # not wait_for: in 3.11 it can swallow a cancellation
                    async with asyncio.timeout(self._settings.poll_s):
                        await self._wake.wait()

    async def _claim(self) -> int:
        free = self._settings.concurrency - len(self._running)
        leases = await self._jobs.claim(self._settings.lease_s, free) if free > 0 else []
        for lease in leases:
            task = asyncio.create_task(self._work(lease))
            self._running.add(task)
            task.add_done_callback(self._finished)
        return len(leases)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("a job's outcome could not be stored; its lease will run out", exc_info=task.exception())

    async def _clean_up(self) -> None:
        await self._services.records.posts.purge_keys()
        await self._services.records.erasures.sweep_media(self._services.media_store.delete)

    async def _work(self, lease: Lease) -> None:
        if lease.attempts > self._settings.max_attempts:
            await self._jobs.fail(lease, error_object(AttemptsExhausted()))
            return
        try:
            async with self._kept_alive(lease):
                await attempt(self._services, lease, None, self._settings.deadline_s)
        except (LeaseLost, PostErased):
            log.info("post %r revision %d: no longer this worker's", lease.post.post_id, lease.post.revision)
        except asyncio.CancelledError:
            await self._jobs.retry(lease, None)
            raise
        except ParakhError as error:
            await self._settle(lease, error)
        except Exception:  # the edge of a job: one bad post must not end the worker
            log.exception("post %r revision %d failed", lease.post.post_id, lease.post.revision)
            await self._settle(lease, ParakhError())

    async def _settle(self, lease: Lease, error: ParakhError) -> None:
        again = isinstance(error, RETRYABLE) or type(error) is ParakhError
        if again and lease.attempts < self._settings.max_attempts:
            await self._jobs.retry(lease, error_object(error), retry_delay_s(self._settings, lease.attempts, error))
        else:
            await self._jobs.fail(lease, error_object(error))

    @contextlib.asynccontextmanager
    async def _kept_alive(self, lease: Lease) -> AsyncIterator[None]:
        """Renews the lease; raises LeaseLost into the work where it went to another worker."""
        work, lost = asyncio.current_task(), False
        assert work is not None

        async def renew() -> None:
            nonlocal lost
            while True:
                await asyncio.sleep(self._settings.lease_s / 3)
                with contextlib.suppress(NodeUnavailable):  # a database away for a moment: try again next time
                    if not await self._jobs.renew(lease, self._settings.lease_s):
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


def retry_delay_s(settings: JobSettings, attempts: int, error: ParakhError) -> float:
    """Exponential, with jitter so that many jobs of one outage do not come back at once."""
    pause: float = min(settings.retry_max_s, settings.retry_base_s * 2 ** (attempts - 1))
    asked = error.retry_after_s if isinstance(error, Overloaded) else 0.0
    return max(asked, pause * random.uniform(0.5, 1.0))  # noqa: S311
