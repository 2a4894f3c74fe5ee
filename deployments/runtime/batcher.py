"""Accumulate-while-busy batching: whatever is queued when a worker falls free becomes the next batch.

In: single items from many callers on one event loop. Out: each caller's own result or own error.
An idle worker starts at once (it never waits for company); under load batches grow by themselves up to the
weight limit. `serve.batch` cuts its batches while the executor is busy, which gives many tiny ones, and
fails every item of a batch with one exception; this does neither.

The oldest queued item decides the bucket of the next batch; items of that bucket join in order of arrival.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from deployments.runtime.errors import DeadlineExceeded, NodeUnavailable, Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchSettings(BaseModel):
    """The limits of a batcher; they may change while it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch_weight: int = Field(
        32, ge=1, description="Most weight in one batch, in the encoder's unit; a single heavier item runs alone."
    )
    max_queue_items: int = Field(
        1024, ge=1, description="Items waiting beyond the running batch; one more is refused with 429."
    )


class BatchObserver(Protocol):
    """Told of every batch; the Ray wrapper turns it into metrics."""

    def batch_done(self, *, items: int, weight: int, wait_s: float, execution_s: float) -> None: ...

    def queue_length(self, items: int) -> None: ...


class NoObserver:
    def batch_done(self, *, items: int, weight: int, wait_s: float, execution_s: float) -> None:
        pass

    def queue_length(self, items: int) -> None:
        pass


@dataclass(eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    weight: int
    bucket: Hashable
    enqueued_at: float
    expires_at: float | None
    future: asyncio.Future[Result]
    timer: asyncio.TimerHandle | None = None  # answers DeadlineExceeded while the entry still waits

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class MicroBatcher(Generic[Item, Result]):
    """Collects items on the event loop it is used on, runs them through `run` in worker threads.

    Args:
        run: batch -> one result or one exception per item, in order. May raise: then the batch is halved and
            tried again, down to single items, so that one poisoned item fails alone.
        weight: cost of an item in the unit of `settings.max_batch_weight`, at least 1.
        bucket: items whose buckets differ never share a batch.
        workers: batches that run at the same time, each in a thread of its own.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        settings: BatchSettings,
        workers: int = 1,
        weight: Callable[[Item], int] = lambda _: 1,
        bucket: Callable[[Item], Hashable] = lambda _: None,
        observer: BatchObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._run = run
        self._workers = workers
        self._weight = weight
        self._bucket = bucket
        self._observer = observer or NoObserver()
        self._clock = clock
        self._queue: deque[_Entry[Item, Result]] = deque()
        self._running: dict[asyncio.Task[None], float] = {}  # batch task -> when it started
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="batch")
        self._wake_scheduled = False
        self._closed = False

    async def submit(self, item: Item, *, timeout_s: float | None = None) -> Result:
        """Wait for this item's result.

        Raises:
            Overloaded: the queue is full.
            DeadlineExceeded: `timeout_s` passed before its batch started; raised at that moment.
            NodeUnavailable: the batcher is closed.
            Exception: whatever `run` gave for this item.
        """
        if self._closed:
            raise NodeUnavailable
        if len(self._queue) >= self.settings.max_queue_items:
            self._forget_answered()
        if len(self._queue) >= self.settings.max_queue_items:
            raise Overloaded
        loop = asyncio.get_running_loop()
        now = self._clock()
        entry: _Entry[Item, Result] = _Entry(
            item=item,
            weight=max(1, self._weight(item)),
            bucket=self._bucket(item),
            enqueued_at=now,
            expires_at=None if timeout_s is None else now + timeout_s,
            future=loop.create_future(),
        )
        if timeout_s is not None:
            entry.timer = loop.call_at(loop.time() + timeout_s, self._expire, entry)
        self._queue.append(entry)
        if not self._wake_scheduled:  # one turn of the loop, so that siblings submitted together ride together
            self._wake_scheduled = True
            loop.call_soon(self._start_batches)
        try:
            return await entry.future
        finally:
            entry.stop_timer()

    def oldest_running_s(self) -> float:
        """Age of the oldest batch still running, 0 when idle: how a stuck executor shows."""
        return max((self._clock() - started for started in self._running.values()), default=0.0)

    @property
    def queued(self) -> int:
        return len(self._queue)

    async def close(self) -> None:
        """Refuse new items, fail the queued ones, wait for the running batches."""
        self._closed = True
        while self._queue:
            entry = self._queue.popleft()
            if not entry.future.done():
                entry.future.set_exception(NodeUnavailable())
        if self._running:
            await asyncio.wait(self._running)
        self._executor.shutdown(wait=False)

    def _expire(self, entry: _Entry[Item, Result]) -> None:
        if not entry.future.done():
            entry.future.set_exception(DeadlineExceeded())
            self._queue.remove(entry)

    def _forget_answered(self) -> None:
        """Cancelled and expired items take no place in the queue."""
        self._queue = deque(entry for entry in self._queue if not entry.future.done())

    def _start_batches(self) -> None:
        self._wake_scheduled = False
        while len(self._running) < self._workers:
            batch = self._take_batch()
            if not batch:
                break
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._running[task] = self._clock()
            task.add_done_callback(self._batch_finished)
        self._observer.queue_length(len(self._queue))

    def _batch_finished(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not self._closed:
            self._start_batches()

    def _take_batch(self) -> list[_Entry[Item, Result]]:
        """The oldest live item and those of its bucket that fit; cancelled and expired items leave the queue here."""
        batch: list[_Entry[Item, Result]] = []
        skipped: deque[_Entry[Item, Result]] = deque()
        weight, now = 0, self._clock()
        while self._queue:
            entry = self._queue.popleft()
            if entry.future.done():  # the caller went away
                continue
            if entry.expires_at is not None and entry.expires_at <= now:
                entry.future.set_exception(DeadlineExceeded())
                continue
            if batch and entry.bucket != batch[0].bucket:
                skipped.append(entry)
                continue
            if batch and weight + entry.weight > self.settings.max_batch_weight:
                skipped.append(entry)
                break  # a lighter later one must not overtake it
            entry.stop_timer()
            batch.append(entry)
            weight += entry.weight
        skipped.extend(self._queue)
        self._queue = skipped
        return batch

    async def _run_batch(self, batch: list[_Entry[Item, Result]]) -> None:
        started = self._clock()
        results = await self._outcomes(batch)
        for entry, result in zip(batch, results, strict=True):
            if entry.future.done():
                continue
            if isinstance(result, Exception):
                entry.future.set_exception(result)
            else:
                entry.future.set_result(result)
        self._observer.batch_done(
            items=len(batch),
            weight=sum(entry.weight for entry in batch),
            wait_s=started - batch[0].enqueued_at,
            execution_s=self._clock() - started,
        )

    async def _execute(self, items: list[Item]) -> Sequence[Result | Exception] | Exception:
        """Per-item outcomes, or one error where the call as a whole failed."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, _guarded, self._run, items)

    async def _outcomes(self, batch: Sequence[_Entry[Item, Result]]) -> list[Result | Exception]:
        """One outcome per item. A batch that fails as a whole is halved until the guilty item stands alone:
        the innocent half runs as one batch again, which costs less than all of them one by one."""
        if all(entry.future.done() for entry in batch):
            return [NodeUnavailable()] * len(batch)  # nobody is waiting: the values are dropped
        results = await self._execute([entry.item for entry in batch])
        if not isinstance(results, Exception):
            return list(results)
        if len(batch) == 1:
            return [results]
        middle = len(batch) // 2
        return [*await self._outcomes(batch[:middle]), *await self._outcomes(batch[middle:])]


def _guarded(
    run: Callable[[Sequence[Item]], Sequence[Result | Exception]], items: list[Item]
) -> Sequence[Result | Exception] | Exception:
    """Runs in the worker thread; nothing it raises may cancel or kill the event loop's side."""
    try:
        results = run(items)
    except BaseException as error:  # noqa: BLE001  # also CancelledError and SystemExit out of a library
        return _as_exception(error)
    if len(results) != len(items):
        return RuntimeError(f"the encoder gave {len(results)} results for {len(items)} items")
    return [_as_exception(result) if isinstance(result, BaseException) else result for result in results]


def _as_exception(error: BaseException) -> Exception:
    """A future takes neither StopIteration nor anything that is not an Exception."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"the encoder raised {type(error).__name__}: {error}")
