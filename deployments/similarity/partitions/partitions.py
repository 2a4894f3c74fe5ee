"""All partitions under one root directory, for the one process that owns it.

A write names its encoder and goes to every generation of it; a search goes to the active generation. A partition is
made at its first write; a new encoder's generation is built beside the live one (`begin`), then takes its place in one
step (`switch`), and may give it back (`rollback`). A generation that cannot be opened refuses with its reason, and the
others serve. How changes survive a crash: `generations`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput, NotFound, PartitionConflict, WrongEncoder
from deployments.similarity.checks import checked_items
from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.backends import Backend
from deployments.similarity.partitions.catalog import Generation, State
from deployments.similarity.partitions.generations import Fill, Generations, Spec
from deployments.similarity.partitions.listing import PartitionInfo, info_of
from deployments.similarity.partitions.partition import OpenGeneration, Partition
from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import SIGNATURE_BITS, space_of
from deployments.similarity.values import Filter, Item, Neighbours
from deployments.similarity.vector_index import VectorIndex


class Partitions:
    """Every method may be called from any thread; those that change generations may take seconds.

    Raises RootLocked or IndexDamaged from the constructor.
    """

    def __init__(
        self, settings: SimilaritySettings, backend: Backend, *, step: Callable[[str], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self._creating = Lock()
        root = settings.directory.expanduser()
        self._generations = Generations(root, settings.lock_wait_s, backend, step)
        self._catalog = self._generations.catalog
        self._partitions = self._generations.open_all()

    # --- items ---

    def keys_of(self, bank: str | None = None) -> list[PartitionKey]:
        return sorted(key for key in tuple(self._partitions) if bank is None or key.bank == bank)

    def encoder(self, key: PartitionKey) -> EncoderId:
        """Of the active generation. Raises NotFound, IndexDamaged."""
        return self._partition(key).active.generation.encoder

    def upsert(self, key: PartitionKey, encoder: EncoderId, items: Sequence[Item]) -> None:
        """Into every generation of this encoder; the partition is made if there is none.

        Raises WrongEncoder where no generation is of it, InvalidInput as VectorIndex.upsert, IndexDamaged.
        """
        if not items:
            return
        while True:
            partition = self._partitions.get(key) or self._create(key, encoder, items)
            with partition.gate.shared():
                if not partition.gone:  # given up between our look and our turn
                    self._write(partition.written(encoder), lambda index: index.upsert(items))
                    return

    def delete(self, key: PartitionKey, ids: Sequence[str]) -> int:
        """From every generation; how many the active one had. Raises NotFound, IndexDamaged."""
        partition = self._partition(key)

        def deleted(index: VectorIndex) -> int:
            present = list(index.get(ids))  # looking costs no flush of the disk
            return index.delete(present) if present else 0

        with partition.gate.shared():
            return int(self._write(partition.all(), deleted))

    def get(self, key: PartitionKey, ids: Sequence[str]) -> dict[str, Item]:
        """Raises NotFound where there is no such partition, IndexDamaged."""
        with self._partition(key).searching(None) as index:
            return index.get(ids)

    def scan(self, key: PartitionKey, after: str = "", limit: int = 1000) -> list[str]:
        with self._partition(key).searching(None) as index:
            return index.scan(after, limit)

    def search(
        self,
        key: PartitionKey,
        encoder: EncoderId,
        queries: NDArray[Any] | Sequence[NDArray[Any]],
        k: int,
        *,
        filter: Filter | None = None,
        threshold: float | None = None,
        exact: bool = False,
    ) -> list[Neighbours]:
        """As VectorIndex.search. Raises WrongEncoder for a query of another encoder, NotFound, IndexDamaged."""
        with self._partition(key).searching(encoder) as index:
            return index.search(queries, k, filter=filter, threshold=threshold, exact=exact)

    def metric(self, key: PartitionKey) -> tuple[str, bool]:
        """(its name, whether higher scores are better)."""
        with self._partition(key).searching(None) as index:
            return index.space.metric, index.space.higher_is_better

    @contextmanager
    def using(self, key: PartitionKey) -> Iterator[VectorIndex]:
        """The active index itself, held open: for backups, checks and tuning. Raises NotFound, IndexDamaged."""
        with self._partition(key).searching(None) as index:
            yield index

    # --- what there is ---

    def infos(self) -> list[PartitionInfo]:
        return [info_of(partition, self._settings) for _, partition in sorted(self._partitions.items())]

    def info(self, key: PartitionKey) -> PartitionInfo:
        """Raises NotFound."""
        return info_of(self._partition(key), self._settings)

    def damaged(self) -> dict[PartitionKey, str]:
        """Partition -> why it refuses."""
        reasons = {key: partition.damage for key, partition in sorted(self._partitions.items())}
        return {key: reason for key, reason in reasons.items() if reason is not None}

    # --- generations ---

    def begin(
        self, key: PartitionKey, encoder: EncoderId, dimension: int, settings: IndexSettings | None = None
    ) -> Generation:
        """Build a generation beside the live one; from now on writes of its encoder reach it, too.

        Raises PartitionConflict where one is being built already, NotFound.
        """
        spec = Spec(encoder, dimension, settings or self._settings.index_of(str(key), key.modality))
        return self._begin(key, spec)

    def switch(self, key: PartitionKey) -> None:
        """The built generation becomes the active one, at once for every search. Raises PartitionConflict, NotFound."""
        self._change(key, State.BUILDING, lambda: self._catalog.switch(key, time.time()))

    def rollback(self, key: PartitionKey) -> None:
        """The previous generation becomes the active one again. Raises PartitionConflict, NotFound."""
        self._change(key, State.PREVIOUS, lambda: self._catalog.rollback(key, time.time()))

    def retire(self, key: PartitionKey, number: int) -> None:
        """Give up a generation that is not active, and its data. Raises PartitionConflict, NotFound."""
        self._change(key, None, lambda: self._catalog.retire(key, number))

    def drop_empty(self, key: PartitionKey) -> bool:
        """Give the partition up, data and all, where no generation of it holds anything. Raises NotFound, IndexDamaged.

        The next write makes it anew.
        """
        partition = self._partition(key)
        with partition.changing:
            with self._creating, partition.gate.alone():
                if any(opened.index.count() for opened in partition.all()):
                    return False
                self._catalog.drop(key)
                partition.gone, dropped, partition.generations = True, partition.generations, ()
                self._partitions = {other: one for other, one in self._partitions.items() if other != key}
            for opened in dropped:
                self._generations.dispose(opened)
        return True

    def restore(self, key: PartitionKey, spec: Spec, fill: Fill) -> Generation:
        """A generation out of a backup, live on return; what was live before, sound or damaged, is kept as previous.

        What `fill` raises leaves everything as it was.
        """
        with self._creating:
            if key not in self._partitions:
                return self._added(key, spec, fill).active.generation
        generation = self._begin(key, spec, fill)
        self.switch(key)
        return generation

    def reopen(self, key: PartitionKey) -> None:
        """Close and open every generation: a write to its disk failed once, or it was repaired. Raises NotFound."""
        partition = self._partition(key)
        with partition.changing, partition.gate.alone():
            old = partition.generations
            partition.generations = tuple(
                OpenGeneration(opened.generation, None, "it is being opened anew") for opened in old
            )
            for opened in old:
                opened.close()
            partition.generations = tuple(self._generations.open(opened.generation) for opened in old)

    def lacking(self, key: PartitionKey, *, reverse: bool = False) -> Iterator[str]:
        """Ids of the active generation that the one being built (else the previous) lacks, in order; or the reverse.

        What is still to be re-embedded before a switch, or was written since it before a rollback.
        """
        partition = self._partition(key)
        other = partition.in_state(State.BUILDING) or partition.in_state(State.PREVIOUS)
        if other is None:
            raise PartitionConflict(f"{key} has one generation only.")
        pair = (partition.active.index, other.index)
        return _ids_not_in(*(reversed(pair) if reverse else pair))

    def copy(self, key: PartitionKey, *, batch: int = 500, progress: Callable[[int], None] = lambda _: None) -> int:
        """Fill the generation being built from the active one, where both are of one encoder: other index settings.

        Writes wait for one batch at a time, so that none is overtaken by an older row. Returns the items copied.
        """
        partition = self._partition(key)
        active, building = partition.active, partition.in_state(State.BUILDING)
        if building is None:
            raise PartitionConflict(f"{key} has no generation that is being built.")
        if building.generation.encoder != active.generation.encoder:
            raise WrongEncoder(f"The generations of {key} are of two encoders: vectors cannot be copied.")
        copied, after = 0, ""
        while ids := active.index.scan(after, batch):
            with partition.gate.alone():
                items = list(active.index.get(ids).values())
                building.index.upsert(items)
            copied, after = copied + len(items), ids[-1]
            progress(copied)
        return copied

    def close(self) -> None:
        for partition in self._partitions.values():
            for opened in partition.generations:
                opened.close()
        self._generations.close()

    # --- inside ---

    def _partition(self, key: PartitionKey) -> Partition:
        partition = self._partitions.get(key)
        if partition is None:
            raise NotFound(f"There is no partition {key}.", param="partition")
        return partition

    def _write(self, targets: Sequence[OpenGeneration], write: Callable[[VectorIndex], Any]) -> Any:
        """The answer of the last target. A damaged one before it is passed over, and that is remembered.

        Raises IndexDamaged before anything is written where the last one is damaged.
        """
        answer, _ = None, targets[-1].index
        for opened in targets:
            if opened.damage is not None and opened is not targets[-1]:
                self._generations.mark_incomplete(opened)
            else:
                answer = write(opened.index)
        return answer

    def _begin(self, key: PartitionKey, spec: Spec, fill: Fill | None = None) -> Generation:
        partition = self._partition(key)
        with partition.changing:
            if partition.gone:
                raise NotFound(f"There is no partition {key}.", param="partition")
            if partition.in_state(State.BUILDING) is not None:
                raise PartitionConflict(f"{key} has a generation that is being built: switch to it or retire it.")
            opened = self._generations.make(key, spec, State.BUILDING, fill)
            with partition.gate.alone():
                self._generations.commit(opened)
                partition.generations = (*partition.generations, opened)
            return opened.generation

    def _create(self, key: PartitionKey, encoder: EncoderId, items: Sequence[Item]) -> Partition:
        """Raises InvalidInput before anything is made where the items would be refused."""
        with self._creating:
            if key in self._partitions:  # another thread was first
                return self._partitions[key]
            if len(self._partitions) >= self._settings.max_partitions:
                raise InvalidInput(f"There are {len(self._partitions)} partitions; no more are made.")
            settings = self._settings.index_of(str(key), key.modality)
            dimension = _dimension(settings, items[0])
            checked_items(space_of(settings, dimension), items)
            self._check_dimension(key, encoder, dimension, settings)
            return self._added(key, Spec(encoder, dimension, settings))

    def _check_dimension(self, key: PartitionKey, encoder: EncoderId, dimension: int, settings: IndexSettings) -> None:
        """A first vector of a wrong dimension would shut all others out. Raises InvalidInput."""
        for other in self.keys_of():
            if other.modality != key.modality:
                continue
            for opened in self._partitions[other].generations:
                held = opened.generation
                comparable = held.encoder == encoder and held.settings.metric == settings.metric
                if comparable and held.dimension != dimension:
                    raise InvalidInput(
                        f"The vector has {dimension} dimensions; those of {encoder} in {other} have {held.dimension}.",
                        param="vector",
                    )

    def _added(self, key: PartitionKey, spec: Spec, fill: Fill | None = None) -> Partition:
        opened = self._generations.make(key, spec, State.ACTIVE, fill)
        self._generations.commit(opened)
        partition = Partition(key, (opened,))
        self._partitions = {**self._partitions, key: partition}
        return partition

    def _change(self, key: PartitionKey, coming: State | None, transaction: Callable[[], None]) -> None:
        """`coming`: the state of what is about to be searched."""
        partition = self._partition(key)
        with partition.changing:
            new = None if coming is None else partition.in_state(coming)
            if new is not None and new.damage is not None:
                raise PartitionConflict(f"Generation {new.generation.number} of {key} is damaged: {new.damage}")
            with partition.gate.alone():
                retired = self._generations.change(partition, transaction)
            for opened in retired:
                self._generations.dispose(opened)


def _dimension(settings: IndexSettings, item: Item) -> int:
    vector = np.asarray(item.vector)
    if settings.metric == "jaccard":
        return SIGNATURE_BITS
    if vector.ndim != 1 or not len(vector):
        raise InvalidInput("A vector is a list of numbers.", param="vector")
    return len(vector) * 8 if settings.metric == "hamming" else len(vector)


def _ids_not_in(one: VectorIndex, other: VectorIndex) -> Iterator[str]:
    theirs = _all_ids(other)
    their = next(theirs, None)
    for id_ in _all_ids(one):
        while their is not None and their.encode() < id_.encode():
            their = next(theirs, None)
        if their != id_:
            yield id_


def _all_ids(index: VectorIndex) -> Iterator[str]:
    after = ""
    while ids := index.scan(after):
        yield from ids
        after = ids[-1]
