"""The similarity node without Ray: its calls run in bounded threads, never on the loop; matches, searches and writes
apart, so that moderation waits neither for a flood of searches nor for a rebuild.

A background thread does the upkeep: expiry, the recall sample, metrics, indexes opened anew after a disk's failure.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deployments.runtime.errors import InvalidInput, NodeUnavailable, NotFound, Overloaded, PartitionConflict
from deployments.runtime.health import Health
from deployments.runtime.values import NodeStatus
from deployments.similarity.content import (
    Bank,
    Content,
    EncoderId,
    MatchAnswer,
    PartitionKey,
    SearchHit,
    SearchRequest,
    Use,
)
from deployments.similarity.errors import BeyondRetention, IndexDamaged
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.backends import Backend
from deployments.similarity.partitions.catalog import Generation
from deployments.similarity.partitions.listing import PartitionInfo
from deployments.similarity.partitions.watched import SimilarityObserver
from deployments.similarity.service import SimilarityService
from deployments.similarity.settings import IndexSettings
from deployments.similarity.uses.entries import check_own_content
from deployments.similarity.uses.searching import SearchAnswer
from deployments.similarity.values import Filter, Item

logger = logging.getLogger(__name__)

T = TypeVar("T")

_NO_NEWS = (InvalidInput, NotFound, PartitionConflict, IndexDamaged)  # they tell nothing of the node as a whole


class SimilarityNode:
    """Every method may raise Overloaded, NodeUnavailable (with IndexDamaged) and InvalidInput. Writes are idempotent,
    and durable and findable when they return.

    Raises RootLocked or IndexDamaged from the constructor.
    """

    def __init__(
        self,
        settings: SimilaritySettings,
        observer: SimilarityObserver | None = None,
        backend: Backend | None = None,
    ) -> None:
        self._service = SimilarityService(settings, observer, backend)
        self._matches = _Threads("match", settings.match_threads, settings.max_queued)
        self._searches = _Threads("search", settings.search_threads, settings.max_queued)
        self._writes = _Threads("write", settings.write_threads, settings.max_queued)
        self._changes = _Threads("change", 1, settings.max_queued)  # of generations: minutes, not seconds
        self._health = Health(
            "similarity",
            probe=self._probe,
            running_s=lambda: max(
                threads.oldest_running_s() for threads in (self._matches, self._searches, self._writes)
            ),
            stuck_after_s=settings.stuck_after_s,
            can_probe=lambda: self._searches.queued == 0,
        )
        self._closing = threading.Event()
        self._upkeep = threading.Thread(target=self._maintain, name="similarity-upkeep", daemon=True)
        self._upkeep.start()

    # --- uses ---

    async def match(self, content: Content, uses: Sequence[Use]) -> MatchAnswer:
        """Known content that this one matches, with why. `uses` of known_bad, protected, duplicate."""
        answer = await self._run(self._matches, lambda: self._service.matching.match(content, uses))
        self._health.succeeded()
        return answer

    async def match_past(self, reference: Content) -> MatchAnswer:
        """Posts published before that a new reference matches. Nobody's verdict waits for it: a search like others."""
        return await self._search(lambda: self._service.matching.retroactive(reference))

    async def search(self, request: SearchRequest) -> list[SearchHit]:
        """Raises WrongEncoder, NotFound (a named partition)."""
        return (await self.search_told(request)).hits

    async def search_told(self, request: SearchRequest) -> SearchAnswer:
        """As `search`, with the partitions that failed while others answered."""
        return await self._search(lambda: self._service.searching.search(request))

    async def more_like(
        self,
        id: str,
        *,
        modality: str | None = None,
        k: int = 10,
        threshold: float | None = None,
        filter: Filter | None = None,
        exact: bool = False,
    ) -> SearchAnswer:
        """Posts like this one. Raises NotFound where it, or that modality of it, is not indexed."""
        return await self._search(
            lambda: self._service.searching.more_like(
                id, modality=modality, k=k, threshold=threshold, filter=filter, exact=exact
            )
        )

    async def mark_shown(self, content: Content, feed: str, at: float | None = None) -> None:
        """The feed shows it. Raises NotFound where it has nothing to compare and is not indexed."""
        shown_at = time.time() if at is None else at
        await self._write(lambda: self._service.shown.mark(content, feed, shown_at))

    async def was_shown(self, content: Content, feed: str, within_s: float) -> MatchAnswer:
        """What the feed showed within these seconds that is the same as this content. Raises BeyondRetention."""
        kept_h = self._service.settings.shown_retention_h
        if within_s > 3600 * kept_h:
            raise BeyondRetention(f"What a feed showed is remembered for {kept_h:g} hours.", param="within_hours")
        since = time.time() - within_s
        return await self._search(lambda: self._service.shown.was(content, feed, since))

    # --- content ---

    async def index(self, content: Content, bank: str = Bank.POSTS) -> None:
        """Everything of the content, in place of what was there under its id. Raises WrongEncoder."""
        await self._write(lambda: self._service.contents.index([content], bank))

    async def index_many(self, contents: Sequence[Content], bank: str = Bank.POSTS) -> None:
        await self._write(lambda: self._service.contents.index(contents, bank))

    async def copy(self, source_id: str, content: Content, bank: str = Bank.POSTS) -> bool:
        """Index `content` with the vectors and signatures of `source_id`; False where those are not there."""
        return await self._write(lambda: self._service.contents.copy(source_id, content, bank))

    async def remove(self, id: str, bank: str = Bank.POSTS) -> bool:
        """Whether it was there."""
        return await self._write(lambda: self._service.contents.remove(id, bank))

    async def stored(self, id: str, bank: str = Bank.POSTS) -> Content | None:
        return await self._read(lambda: self._service.contents.stored(id, bank))

    async def has(self, id: str, bank: str = Bank.POSTS) -> bool:
        """Whether anything is there under this id. Raises IndexDamaged where a partition cannot tell."""
        return await self._read(lambda: self._service.contents.has(id, bank))

    async def ids(self, bank: str = Bank.POSTS, after: str = "", limit: int = 1000) -> list[str]:
        """Ids of indexed content greater than `after`, in the order of their UTF-8 bytes."""
        return await self._read(lambda: self._service.contents.ids(bank, after, limit))

    # --- items of one partition ---

    async def upsert_items(self, partition: str, encoder: EncoderId, items: Sequence[Item]) -> None:
        """All or none, each its own content. The partition is made if there is none. Raises WrongEncoder."""
        key = PartitionKey.parse(partition)
        for item in items:
            check_own_content(item.id, key)
        await self._write(lambda: self._service.watched.upsert(key, encoder, items, use="items"))

    async def delete_items(self, partition: str, ids: Sequence[str]) -> int:
        """How many were there. Raises NotFound where there is no such partition."""
        key = PartitionKey.parse(partition)
        return await self._write(lambda: self._service.watched.delete(key, ids, use="items"))

    async def get_items(self, partition: str, ids: Sequence[str]) -> dict[str, Item]:
        """Raises NotFound where there is no such partition."""
        key = PartitionKey.parse(partition)
        return await self._read(lambda: self._service.watched.get(key, ids, use="items"))

    # --- partitions ---

    async def partitions(self) -> list[PartitionInfo]:
        return await self._read(self._service.infos)

    async def begin(
        self, partition: str, encoder: EncoderId, dimension: int, settings: IndexSettings | None = None
    ) -> Generation:
        """Build a generation beside the live one. Raises PartitionConflict, NotFound."""
        key = PartitionKey.parse(partition)
        return await self._change(lambda: self._service.partitions.begin(key, encoder, dimension, settings))

    async def copy_generation(self, partition: str) -> int:
        """Fill the generation being built from the live one of the same encoder; how many items."""
        key = PartitionKey.parse(partition)
        return await self._change(lambda: self._service.partitions.copy(key))

    async def lacking(self, partition: str, limit: int = 1000) -> list[str]:
        """Ids that the generation being built (else the previous one) still lacks, the first of them."""
        key = PartitionKey.parse(partition)
        return await self._change(lambda: _first(self._service.partitions.lacking(key), limit))

    async def switch(self, partition: str) -> None:
        """The built generation is searched from now on. Raises PartitionConflict, NotFound."""
        key = PartitionKey.parse(partition)
        await self._change(lambda: self._service.partitions.switch(key))

    async def rollback(self, partition: str) -> None:
        """The previous generation is searched again. Raises PartitionConflict, NotFound."""
        key = PartitionKey.parse(partition)
        await self._change(lambda: self._service.partitions.rollback(key))

    async def retire(self, partition: str, number: int) -> None:
        """Give up a generation that is not active. Raises PartitionConflict, NotFound."""
        key = PartitionKey.parse(partition)
        await self._change(lambda: self._service.partitions.retire(key, number))

    # --- health ---

    async def status(self) -> NodeStatus:
        """Ready while a real search is at most 30 s old; `reason` names damaged partitions, which refuse alone."""
        status = await self._health.status(model=None)
        damaged = self._service.partitions.damaged()
        if status.state == "ready" and damaged:
            told = "; ".join(f"{key} is damaged: {reason}" for key, reason in damaged.items())
            status = dataclasses.replace(status, reason=told)
        return status

    async def check_health(self) -> None:
        """Asked by Serve; raises where this replica should be replaced."""
        await self._health.check()

    def close(self) -> None:
        """Lets go of the directory. Calls that wait fail; those that run are waited for."""
        self._closing.set()
        for threads in (self._matches, self._searches, self._writes, self._changes):
            threads.close()
        self._upkeep.join()
        self._service.close()

    # --- inside ---

    async def _search(self, call: Callable[[], T]) -> T:
        result = await self._run(self._searches, call)
        self._health.succeeded()
        return result

    async def _read(self, call: Callable[[], T]) -> T:
        return await self._run(self._searches, call)

    async def _write(self, call: Callable[[], T]) -> T:
        return await self._run(self._writes, call)

    async def _change(self, call: Callable[[], T]) -> T:
        return await self._run(self._changes, call)

    async def _run(self, threads: _Threads, call: Callable[[], T]) -> T:
        try:
            return await threads.run(call)
        except (*_NO_NEWS, Overloaded):
            raise
        except Exception as error:
            self._health.failed(error)
            raise

    async def _probe(self) -> None:
        await self._searches.run(self._service.probe)

    def _maintain(self) -> None:
        while not self._closing.wait(self._service.settings.maintain_every_s):
            self._service.maintain()


class _Threads:
    """A bounded pool with a bounded queue, that knows how long its oldest call has been running."""

    def __init__(self, name: str, threads: int, max_queued: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"similarity-{name}")
        self._threads = threads
        self._max_queued = max_queued
        self._waiting = 0  # changed on the event loop alone
        self._running: dict[object, float] = {}  # call -> when it started; changed by the threads
        self._closed = False

    @property
    def queued(self) -> int:
        """Calls that no thread has taken up."""
        return max(0, self._waiting - self._threads)

    def oldest_running_s(self) -> float:
        now = time.monotonic()
        return now - min(tuple(self._running.values()), default=now)

    async def run(self, call: Callable[[], T]) -> T:
        """Raises Overloaded where the queue is full, NodeUnavailable after `close`, and what the call raises."""
        if self._closed:
            raise NodeUnavailable
        if self.queued >= self._max_queued:
            raise Overloaded
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._timed, call)
        except asyncio.CancelledError:
            if self._closed:  # it was still waiting
                raise NodeUnavailable from None
            raise
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _timed(self, call: Callable[[], T]) -> T:
        job = object()
        self._running[job] = time.monotonic()
        try:
            return call()
        finally:
            del self._running[job]


def _first(ids: Iterable[str], limit: int) -> list[str]:
    return [id_ for id_, _ in zip(ids, range(limit), strict=False)]
