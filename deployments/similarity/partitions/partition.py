"""One partition while it serves: its open generations, and who may use or change them when.

Searches see the active generation at that moment. Writes pass the gate together; a change of generations is alone in
it, so that no write is halfway between two sets of generations.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.runtime.errors import NotFound, WrongEncoder
from deployments.similarity.content import EncoderId, PartitionKey
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.partitions.catalog import Generation, State
from deployments.similarity.partitions.gates import Gate, Lease
from deployments.similarity.vector_index import VectorIndex


class OpenGeneration:
    """A generation with its index, or with the reason why it has none."""

    def __init__(self, generation: Generation, index: VectorIndex | None, damage: str | None = None) -> None:
        self.generation = generation
        self.damage = damage
        self._index = index
        self._lease = Lease()

    @property
    def index(self) -> VectorIndex:
        """Raises IndexDamaged where it cannot serve."""
        if self._index is None:
            raise IndexDamaged(f"Partition {self.generation.partition} is damaged: {self.damage}")
        return self._index

    def take(self) -> bool:
        """Hold the index open; False where it was retired."""
        return self._lease.take()

    def give_back(self) -> None:
        self._lease.give_back()

    def close(self) -> None:
        """Waits for those who use it."""
        self._lease.end()
        if self._index is not None:
            self._index.close()


class Partition:
    """`generations` is replaced whole, never changed: a reader holds one consistent set."""

    def __init__(self, key: PartitionKey, generations: tuple[OpenGeneration, ...]) -> None:
        self.key = key
        self.generations = generations
        self.gate = Gate()
        self.changing = threading.Lock()  # held through a whole change of generations, slow parts included
        self.gone = False  # it was given up whole; a write makes another one of this name

    def in_state(self, state: State) -> OpenGeneration | None:
        return next((opened for opened in self.generations if opened.generation.state is state), None)

    @property
    def active(self) -> OpenGeneration:
        """Raises IndexDamaged where there is none: a catalog row was lost. NotFound where it was given up."""
        if self.gone:
            raise NotFound(f"There is no partition {self.key}.", param="partition")
        active = self.in_state(State.ACTIVE)
        if active is None:
            raise IndexDamaged(f"Partition {self.key} is damaged: {self.damage}")
        return active

    @property
    def damage(self) -> str | None:
        """Why it refuses."""
        active = self.in_state(State.ACTIVE)
        return "the catalog does not know its directories" if active is None else active.damage

    @contextmanager
    def searching(self, encoder: EncoderId | None) -> Iterator[VectorIndex]:
        """The active index. Raises WrongEncoder for a query of another encoder, IndexDamaged."""
        active = self.active
        while not active.take():  # retired between our look and our hold: another is active by now
            active = self.active
        try:
            held = active.generation.encoder
            if encoder is not None and encoder != held:
                raise WrongEncoder(
                    f"Partition {self.key} is searched with vectors of {held}; the query's encoder is {encoder}.",
                    param="encoder",
                )
            yield active.index
        finally:
            active.give_back()

    def written(self, encoder: EncoderId) -> list[OpenGeneration]:
        """The generations that a write of this encoder goes to, the active one last. Raises WrongEncoder."""
        fitting = [opened for opened in self.all() if opened.generation.encoder == encoder]
        if not fitting:
            held = ", ".join(str(opened.generation.encoder) for opened in self.all())
            raise WrongEncoder(
                f"Partition {self.key} holds vectors of {held}, none of {encoder}: begin a re-embedding of the "
                "partition first.",
                param="encoder",
            )
        return fitting

    def all(self) -> list[OpenGeneration]:
        """Every generation, the active one last: what is found was written everywhere. Raises IndexDamaged."""
        active = self.active
        return [*(opened for opened in self.generations if opened is not active), active]
