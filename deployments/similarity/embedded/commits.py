"""Group commit: writers from many threads share one durable transaction, and each hears of its own.

The disk's flush costs the same for one row as for a thousand. What arrives while a transaction runs goes into the
next: nobody waits for a batch to fill.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from deployments.similarity.errors import IndexClosed

logger = logging.getLogger(__name__)

Op = TypeVar("Op")
Result = TypeVar("Result")


class GroupCommit(Generic[Op, Result]):
    """`commit` gets a batch of operations and answers each, on one thread; where it raises, all of the batch fail.

    An answer that is an exception fails its own operation.
    """

    def __init__(
        self,
        commit: Callable[[list[Op]], Sequence[Result | BaseException]],
        weight: Callable[[Op], int],
        *,
        max_weight: int = 2048,
        name: str = "commits",
    ) -> None:
        self._commit = commit
        self._weight = weight
        self._max_weight = max_weight
        self._waiting: queue.SimpleQueue[tuple[Op, Future[Result]] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, operation: Op) -> Future[Result]:
        """Raises IndexClosed."""
        future: Future[Result] = Future()
        with self._closing:
            if self._closed:
                raise IndexClosed
            self._waiting.put((operation, future))
        return future

    def close(self) -> None:
        """What was submitted is committed first."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        held: tuple[Op, Future[Result]] | None = None
        while True:
            first = held or self._waiting.get()
            if first is None:
                return
            batch, held, last = self._batch(first)
            self._settle(batch)
            if last:
                return

    def _batch(
        self, first: tuple[Op, Future[Result]]
    ) -> tuple[list[tuple[Op, Future[Result]]], tuple[Op, Future[Result]] | None, bool]:
        """(the batch, what did not fit, whether the end was met)."""
        batch, weight = [first], self._weight(first[0])
        while True:
            try:
                entry = self._waiting.get_nowait()
            except queue.Empty:
                return batch, None, False
            if entry is None:
                return batch, None, True
            weight += self._weight(entry[0])
            if weight > self._max_weight:
                return batch, entry, False
            batch.append(entry)

    def _settle(self, batch: list[tuple[Op, Future[Result]]]) -> None:
        try:
            results = self._commit([operation for operation, _ in batch])
        except BaseException as error:  # noqa: BLE001  # whatever it was, each caller must hear of it
            logger.warning("a commit of %d operations failed: %s", len(batch), error)
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
