"""Tells the index what the records say it must be told: claim -> index, copy or remove -> finish; beside the server.

Any number of workers in any number of processes share the jobs. Each job is idempotent, so one that is done twice
changes nothing; one that fails is tried again, with growing pauses, for ever: the index must follow. What the index
refuses is not tried again. A worker that took longer than `busy_s` may have been overtaken, by an erasure for instance:
what it wrote is set right at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from typing import Any

from deployments.runtime.errors import InvalidInput, ParakhError
from deployments.similarity.content import Bank
from serve_app.records import Records
from serve_app.similarity import IndexJob, Similarity
from serve_app.similarity_settings import IndexingSettings

log = logging.getLogger(__name__)
COPY_ATTEMPTS = 6


class OriginalNotIndexed(Exception):
    """The original of a re-upload still waits in the queue, or has left the index."""


class IndexWorker:
    def __init__(self, records: Records, similarity: Similarity, settings: IndexingSettings) -> None:
        self._jobs = records.index_jobs
        self._reconciling = records.reconciling
        self._similarity = similarity
        self._settings = settings
        self._loop: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def start(self) -> None:
        if self._loop is None:
            self._loop = asyncio.create_task(self._run(), name="index worker")

    async def stop(self) -> None:
        """What was claimed and not done is due again after `busy_s`."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._loop = None

    def wake(self) -> None:
        """Something was just written: do not wait for the next look."""
        self._wake.set()

    async def tell(self, bank: str, item_id: str, wait_s: float) -> bool:
        """This item before its turn, for a caller who needs it in the index. False where it was not told in time."""
        deadline = time.monotonic() + wait_s
        while True:
            job = await self._jobs.claim_one(bank, item_id, self._settings.busy_s)
            if job is not None:
                await self._finish(await self._alone(job))
            told = await self._jobs.is_told(bank, item_id)
            if told or time.monotonic() > deadline:
                return told
            await asyncio.sleep(self._settings.poll_s)

    async def run_once(self) -> int:
        """Do what is due now; returns how many jobs were claimed."""
        jobs = await self._jobs.claim(self._settings.batch, self._settings.busy_s)
        if jobs:
            await self._finish([job for group in await asyncio.gather(*self._groups(jobs)) for job in group])
        return len(jobs)

    async def _finish(self, jobs: list[IndexJob]) -> None:
        for job in await self._jobs.finish(jobs):
            await self._overtaken(job)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                claimed = await self.run_once()
            except Exception:  # the edge of the task: it outlives a sick database
                log.exception("index jobs could not be read")
                claimed = 0
            if not claimed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.poll_s):
                        await self._wake.wait()

    def _groups(self, jobs: list[IndexJob]) -> Iterator[Coroutine[Any, Any, list[IndexJob]]]:
        """What is only to be taken in goes bank by bank in one write, anything else alone."""
        together: dict[str, list[IndexJob]] = defaultdict(list)
        for job in jobs:
            if job.op == "index" and job.content is not None:
                together[job.bank].append(job)
            else:
                yield self._alone(job)
        for bank, group in together.items():
            yield self._together(bank, group)

    async def _together(self, bank: str, jobs: list[IndexJob]) -> list[IndexJob]:
        """Those that are over. Where the write fails, each is tried alone, so that one bad item costs only itself."""
        try:
            await self._similarity.index([job.content for job in jobs if job.content is not None], bank)
        except Exception as error:  # noqa: BLE001 - the edge of a job: `_failed` tells what it was
            if len(jobs) > 1:
                return [job for one in jobs for job in await self._alone(one)]
            return await self._failed(jobs[0], error)
        return jobs

    async def _alone(self, job: IndexJob) -> list[IndexJob]:
        try:
            await self._perform(job)
        except Exception as error:  # noqa: BLE001 - the edge of a job: `_failed` tells what it was
            return await self._failed(job, error)
        return [job]

    async def _failed(self, job: IndexJob, error: Exception) -> list[IndexJob]:
        """What may pass is tried again; what the index refuses is over."""
        if isinstance(error, InvalidInput):
            log.error("index job %s of %s %r is given up: %s", job.op, job.bank, job.id, error)
            if not await self._jobs.fail(job, str(error)):
                await self._overtaken(job)
            return []
        if not isinstance(error, ParakhError | OriginalNotIndexed):
            log.error("index job %s of %s %r failed", job.op, job.bank, job.id, exc_info=error)
        pause_s = min(self._settings.retry_max_s, self._settings.retry_base_s * 2 ** min(job.attempts - 1, 20))
        if not await self._jobs.retry(job, type(error).__name__, pause_s):
            await self._overtaken(job)
        return []

    async def _overtaken(self, job: IndexJob) -> None:
        log.warning("index job %s of %s %r took so long that another worker was faster", job.op, job.bank, job.id)
        await self._reconciling.settle(job.bank, job.id)

    async def _perform(self, job: IndexJob) -> None:
        if job.op == "remove":
            await self._similarity.remove(job.id, job.bank)
            if job.bank == Bank.POSTS:  # what feeds showed are copies of its vectors
                await self._similarity.remove(job.id, Bank.SHOWN)
        elif job.content is None:
            raise InvalidInput("The job has no content.")
        elif job.op == "copy" and job.source_id is not None:
            if not await self._similarity.copy(job.source_id, job.content, job.bank):
                # its original may still wait in the queue; where it is gone, the reconciler embeds the media again
                if job.attempts < COPY_ATTEMPTS:
                    raise OriginalNotIndexed
                log.warning("post %r: its original %r has left the index", job.id, job.source_id)
        else:
            await self._similarity.index([job.content], job.bank)
