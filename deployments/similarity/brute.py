"""The exact reference: a dictionary and a full scan. What every other backend is held against, and a fake for tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.checks import checked_items, checked_search
from deployments.similarity.errors import IndexClosed
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import Space, space_of
from deployments.similarity.values import Filter, IndexStats, Item, Neighbours


class BruteIndex:
    """VectorIndex in memory: durable for as long as the process lives."""

    def __init__(self, settings: IndexSettings, dimension: int) -> None:
        self._settings = settings
        self._space = space_of(settings, dimension)
        self._items: dict[str, Item] | None = {}  # None: closed
        self._lock = threading.Lock()

    @property
    def space(self) -> Space:
        return self._space

    @property
    def settings(self) -> IndexSettings:
        return self._settings

    def upsert(self, items: Sequence[Item]) -> None:
        checked = checked_items(self._space, items)
        with self._lock:
            self._held.update({item.id: item for item in checked})

    def delete(self, ids: Sequence[str]) -> int:
        with self._lock:
            return sum(self._held.pop(id_, None) is not None for id_ in ids)

    def get(self, ids: Sequence[str]) -> dict[str, Item]:
        with self._lock:
            return {id_: self._held[id_] for id_ in ids if id_ in self._held}

    def search(
        self,
        queries: NDArray[Any] | Sequence[NDArray[Any]],
        k: int,
        *,
        filter: Filter | None = None,
        threshold: float | None = None,
        exact: bool = False,
    ) -> list[Neighbours]:
        checked = checked_search(self._space, queries, k, threshold)
        with self._lock:
            items = [item for item in self._held.values() if filter is None or passes(item, filter)]
        rows = self._space.pack([item.vector for item in items])
        return [self._nearest(query, rows, items, k, threshold) for query in checked]

    def count(self) -> int:
        return len(self._held)

    def scan(self, after: str = "", limit: int = 1000) -> list[str]:
        with self._lock:
            greater = (id_ for id_ in self._held if id_.encode() > after.encode())
            return sorted(greater, key=str.encode)[:limit]

    def stats(self) -> IndexStats:
        with self._lock:
            newest = max((item.created_at for item in self._held.values()), default=None)
            memory = sum(item.vector.nbytes for item in self._held.values())
            return IndexStats(len(self._held), memory, 0, 0, 0, 0, 0, newest, None)

    def close(self) -> None:
        self._items = None

    @property
    def _held(self) -> dict[str, Item]:
        if self._items is None:
            raise IndexClosed
        return self._items

    def _nearest(
        self, query: NDArray[Any], rows: Any, items: list[Item], k: int, threshold: float | None
    ) -> Neighbours:
        scores = self._space.scores(query, rows) if items else np.empty(0, np.float32)
        best = self._space.order(scores)[:k]
        if threshold is not None:
            best = best[self._space.better(scores[best], threshold)]
        return Neighbours(tuple(items[i].id for i in best), scores[best])


def passes(item: Item, filter: Filter) -> bool:
    return (
        (not filter.languages or item.language in filter.languages)
        and (not filter.content_types or item.content_type in filter.content_types)
        and (filter.created_from is None or item.created_at >= filter.created_from)
        and (filter.created_until is None or item.created_at < filter.created_until)
        and item.id not in filter.exclude_ids
    )
