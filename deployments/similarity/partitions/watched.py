"""The partitions, with everything that is asked of them told to an observer: what the metrics are made of.

A sample of the searches is kept and repeated exactly later: what share of the true neighbours they find, live.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import ParakhError
from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.partitions.listing import PartitionInfo
from deployments.similarity.partitions.partitions import Partitions
from deployments.similarity.values import Filter, Item, Neighbours

_RECENT = 64  # searches kept to be repeated
_JUDGED = 400  # neighbours that a partition's estimate rests on, at most


class SimilarityObserver(Protocol):
    """`use`: why it was done (a `Use`, `search`, `shown`, `index`, `items`, `recall`)."""

    def searched(self, partition: str, use: str, seconds: float, queries: int) -> None: ...

    def written(self, partition: str, use: str, seconds: float, items: int) -> None: ...

    def failed(self, partition: str, use: str, kind: str) -> None: ...

    def listed(self, infos: Sequence[PartitionInfo]) -> None: ...


class NoObserver:
    def searched(self, partition: str, use: str, seconds: float, queries: int) -> None:
        pass

    def written(self, partition: str, use: str, seconds: float, items: int) -> None:
        pass

    def failed(self, partition: str, use: str, kind: str) -> None:
        pass

    def listed(self, infos: Sequence[PartitionInfo]) -> None:
        pass


@dataclass(frozen=True)
class _Search:
    key: PartitionKey
    encoder: EncoderId
    query: NDArray[Any]
    k: int
    filter: Filter | None
    threshold: float | None


class WatchedPartitions:
    """Raises what `Partitions` raises."""

    def __init__(self, partitions: Partitions, observer: SimilarityObserver | None = None) -> None:
        self.partitions = partitions
        self._observer = observer or NoObserver()
        self._recent: deque[_Search] = deque(maxlen=_RECENT)
        self._judged: dict[PartitionKey, deque[bool]] = {}
        self._lock = threading.Lock()

    def search(
        self,
        key: PartitionKey,
        encoder: EncoderId,
        queries: Sequence[NDArray[Any]] | NDArray[Any],
        k: int,
        *,
        use: str,
        filter: Filter | None = None,
        threshold: float | None = None,
        exact: bool = False,
    ) -> list[Neighbours]:
        done = self._observer.searched
        with self._told(key, use, lambda seconds: done(str(key), use, seconds, len(queries))):
            found = self.partitions.search(key, encoder, queries, k, filter=filter, threshold=threshold, exact=exact)
        if len(queries) and not exact:
            query = np.array(queries[random.randrange(len(queries))])  # noqa: S311
            with self._lock:
                self._recent.append(_Search(key, encoder, query, k, filter, threshold))
        return found

    def upsert(self, key: PartitionKey, encoder: EncoderId, items: Sequence[Item], *, use: str = "index") -> None:
        done = self._observer.written
        with self._told(key, use, lambda seconds: done(str(key), use, seconds, len(items))):
            self.partitions.upsert(key, encoder, items)

    def delete(self, key: PartitionKey, ids: Sequence[str], *, use: str = "index") -> int:
        done, deleted = self._observer.written, 0
        with self._told(key, use, lambda seconds: done(str(key), use, seconds, deleted)):
            deleted = self.partitions.delete(key, ids)
        return deleted

    def get(self, key: PartitionKey, ids: Sequence[str], *, use: str = "index") -> dict[str, Item]:
        with self._told(key, use, lambda seconds: None):
            return self.partitions.get(key, ids)

    def estimate_recall(self, samples: int) -> None:
        """Repeat so many of the recent searches, as they were and exactly."""
        with self._lock:
            taken = [self._recent.pop() for _ in range(min(samples, len(self._recent)))]
        for search in taken:
            try:
                self._judge(search)
            except ParakhError:  # its partition went away or changed its encoder meanwhile
                continue

    def recall_of(self, key: PartitionKey) -> float | None:
        judged = self._judged.get(key)
        return sum(judged) / len(judged) if judged else None

    def _judge(self, search: _Search) -> None:
        ask = self.partitions.search
        (found,), (true,) = (
            ask(
                search.key,
                search.encoder,
                [search.query],
                search.k,
                filter=search.filter,
                threshold=search.threshold,
                exact=exact,
            )
            for exact in (False, True)
        )
        kept = self._judged.setdefault(search.key, deque(maxlen=_JUDGED))
        kept.extend(id_ in found.ids for id_ in true.ids)

    @contextmanager
    def _told(self, key: PartitionKey, use: str, done: Callable[[float], None]) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            kind = error.code if isinstance(error, ParakhError) else type(error).__name__
            self._observer.failed(str(key), use, kind)
            raise
        done(time.perf_counter() - started)
