"""Tells the index what the records say it must be told: claim -> index, copy or remove -> finish; beside the server.

Any number of workers in any number of processes share the jobs. Each job is idempotent, so one that is done twice
changes nothing; one that fails is tried again, with growing pauses, for ever: the index must follow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from deployments.runtime.errors import InvalidInput, ParakhError
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

    async def run_once(self) -> int:
        """Do what is due now; returns how many jobs were claimed."""
        jobs = await self._jobs.claim(self._settings.concurrency, self._settings.busy_s)
        if jobs:
            done = await asyncio.gather(*(self._work(job) for job in jobs))
            await self._jobs.finish([job for job, ended in zip(jobs, done, strict=True) if ended])
        return len(jobs)

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

    async def _work(self, job: IndexJob) -> bool:
        """Whether the job is over."""
        try:
            await self._perform(job)
        except InvalidInput as error:  # the index refuses it now and for ever
            log.error("index job %s of %s %r is given up: %s", job.op, job.bank, job.id, error)
        except (ParakhError, OriginalNotIndexed) as error:
            return await self._again(job, str(error) or type(error).__name__)
        except Exception:  # the edge of a job: one bad item must not end the worker
            log.exception("index job %s of %s %r failed", job.op, job.bank, job.id)
            return await self._again(job, "failed; the log says why")
        return True

    async def _again(self, job: IndexJob, reason: str) -> bool:
        pause_s = min(self._settings.retry_max_s, self._settings.retry_base_s * 2 ** min(job.attempts - 1, 20))
        await self._jobs.retry(job, reason, pause_s)
        return False

    async def _perform(self, job: IndexJob) -> None:
        if job.op == "remove":
            await self._similarity.remove(job.id, job.bank)
        elif job.content is None:
            log.error("index job %s of %s %r has no content", job.op, job.bank, job.id)
        elif job.op == "copy" and job.source_id is not None:
            if not await self._similarity.copy(job.source_id, job.content, job.bank):
                # its original may still wait in the queue; where it is gone, the reconciler embeds the media again
                if job.attempts < COPY_ATTEMPTS:
                    raise OriginalNotIndexed
                log.warning("post %r: its original %r has left the index", job.id, job.source_id)
        else:
            await self._similarity.index(job.content, job.bank)
