"""The similarity search as one object in one process, its calls blocking: what the node runs in its threads.

The command line and jobs use it bare, where no server runs on the same directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time

from deployments.runtime.errors import NotFound
from deployments.similarity.content import PartitionKey
from deployments.similarity.errors import IndexClosed, IndexDamaged
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.backends import Backend, backend_of
from deployments.similarity.partitions.listing import PartitionInfo
from deployments.similarity.partitions.partitions import Partitions
from deployments.similarity.partitions.watched import NoObserver, SimilarityObserver, WatchedPartitions
from deployments.similarity.uses.contents import Contents
from deployments.similarity.uses.matching import Matching
from deployments.similarity.uses.searching import Searching
from deployments.similarity.uses.shown import Shown

logger = logging.getLogger(__name__)


class SimilarityService:
    """Owns the root directory until it is closed. Every part may be used from any thread.

    Raises RootLocked or IndexDamaged from the constructor.
    """

    def __init__(
        self,
        settings: SimilaritySettings,
        observer: SimilarityObserver | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.settings = settings
        self.partitions = Partitions(settings, backend or backend_of(settings))
        self._observer = observer or NoObserver()
        self.watched = WatchedPartitions(self.partitions, self._observer)
        self.contents = Contents(self.watched, settings)
        self.searching = Searching(self.watched, self.contents, settings)
        self.matching = Matching(self.watched, settings)
        self.shown = Shown(self.watched, self.contents, self.matching, settings)
        self._turns = itertools.count()
        self._reopened: set[PartitionKey] = set()  # for damage; once more would not help

    def infos(self) -> list[PartitionInfo]:
        """Every partition, with the recall that its own searches were seen to have."""
        return [self._with_recall(info) for info in self.partitions.infos()]

    def probe(self) -> None:
        """A real, tiny search of one sound partition, another each time. Raises what the search raises."""
        damaged = self.partitions.damaged()
        sound = [key for key in self.partitions.keys_of() if key not in damaged]
        if sound:
            with contextlib.suppress(IndexDamaged, NotFound):  # it refuses alone, or is given up: no news of the node
                self._look(sound[next(self._turns) % len(sound)])

    def maintain(self) -> None:
        """One round of upkeep. Never raises."""
        for task in (self._mend, self._expire, self._estimate_recall, self._tell):
            try:
                task()
            except Exception:  # the next round must come
                logger.exception("similarity: upkeep failed in %s", task.__name__.strip("_"))

    def close(self) -> None:
        self.partitions.close()

    def _mend(self) -> None:
        """An index whose disk failed once refuses everything after; opened anew it serves, or tells its damage.

        One that opens well and still meets a damaged row is not opened again and again: that interrupts its searches.
        """
        damaged = self.partitions.damaged()
        for key in self.partitions.keys_of():
            if key in damaged:
                continue
            try:
                self._look(key)
            except (IndexClosed, IndexDamaged) as error:
                if isinstance(error, IndexDamaged):
                    if key in self._reopened:
                        continue
                    self._reopened.add(key)
                logger.warning("similarity: opening %s anew: %s", key, error)
                self.partitions.reopen(key)
            except NotFound:
                continue
            else:
                self._reopened.discard(key)

    def _look(self, key: PartitionKey) -> None:
        for item in self.partitions.get(key, self.partitions.scan(key, limit=1)).values():
            self.partitions.search(key, self.partitions.encoder(key), [item.vector], 1)

    def _expire(self) -> None:
        forgotten = self.shown.expire(time.time() - 3600 * self.settings.shown_retention_h)
        if forgotten:
            logger.info("similarity: %d items that feeds showed are forgotten", forgotten)

    def _estimate_recall(self) -> None:
        self.watched.estimate_recall(self.settings.recall_samples)

    def _tell(self) -> None:
        self._observer.listed(self.infos())

    def _with_recall(self, info: PartitionInfo) -> PartitionInfo:
        recall = self.watched.recall_of(info.key)
        if info.stats is None or recall is None:
            return info
        return dataclasses.replace(info, stats=dataclasses.replace(info.stats, recall_estimate=recall))
