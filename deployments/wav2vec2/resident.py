"""Models in memory, as many as fit: least recently used out first, never one in use.

Any number of threads ask for models by key. The first to ask loads, the others of that key wait for it; a failed load
is told to those who waited for it and to nobody else, and the next caller tries again. Where everything that could
leave is in use, the caller waits; a caller who has waited for `patience_s` goes before everyone who came later, so that
a busy language cannot keep a rare one out for ever.

Who holds a lease must not wait for another with it in hand (`pin` never waits): two who do could wait for each other.

    size (cheap) -> make room -> load (slow, outside the lock) -> lease ... release
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from deployments.runtime.errors import DeadlineExceeded, ModelError

Key = TypeVar("Key", bound=Hashable)
Model = TypeVar("Model")


@dataclass(eq=False)
class _Entry(Generic[Model]):
    bytes: int
    pins: int = 0
    model: Model | None = None  # None while it loads
    error: BaseException | None = None  # why the load failed; the entry has then left the table


class Lease(Generic[Model]):
    """A model that will stay until `release`, which may be called from any thread, any number of times."""

    def __init__(self, model: Model, release: Callable[[], None]) -> None:
        self._model: Model | None = model
        self._release: Callable[[], None] | None = release
        self._lock = threading.Lock()

    @property
    def model(self) -> Model:
        if self._model is None:
            raise RuntimeError("the lease was released")
        return self._model

    def release(self) -> None:
        with self._lock:
            release, self._release, self._model = self._release, None, None  # an evicted model leaves memory at once
        if release is not None:
            release()

    def __enter__(self) -> Model:
        return self.model

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True)
class Residents(Generic[Key]):
    """What is in memory at one moment."""

    bytes: int
    budget_bytes: int
    keys: tuple[Key, ...]  # loaded, least recently used first
    pinned: tuple[Key, ...]


class ResidentModels(Generic[Key, Model]):
    """A table of loaded models whose sizes never add up to more than the budget.

    Args:
        budget_bytes: upper bound of the sum of sizes, models that are being loaded included.
        size: bytes a key's model takes, known without loading it.
        load: makes the model; runs outside the lock, in the thread that asked first.
        unload: told of a model that has left, for memory that is not freed by itself.
        patience_s: a caller who has waited longer for room is served before all who came later.
    """

    def __init__(
        self,
        budget_bytes: int,
        size: Callable[[Key], int],
        load: Callable[[Key], Model],
        *,
        unload: Callable[[Model], None] = lambda _: None,
        patience_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget_bytes
        self._size = size
        self._load = load
        self._unload = unload
        self._patience_s = patience_s
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry[Model]] = OrderedDict()  # least recently used first
        self._waiting: OrderedDict[object, float] = OrderedDict()  # tickets of those who wait for room, oldest first
        self._changed = threading.Condition()

    def use(self, key: Key, timeout_s: float | None = None) -> Lease[Model]:
        """The key's model, loaded if need be. Blocks.

        Raises:
            ModelError: the model alone is larger than the budget.
            DeadlineExceeded: `timeout_s` passed before there was room, or before another's load of it ended.
            Exception: whatever `load` raised.
        """
        deadline = None if timeout_s is None else self._clock() + timeout_s
        size = self._size(key)
        if size > self._budget:
            raise ModelError(
                f"{key}: the model needs {size} bytes, and the memory for models is {self._budget}: raise cache_bytes."
            )
        with self._changed:
            entry, mine = self._enter(key, size, deadline)
        if mine:
            self._fill(key, entry)
        return self._await(key, entry, deadline)

    def use_resident(self, key: Key) -> Lease[Model] | None:
        """The same without ever blocking: None where it is not loaded, or where someone has waited too long."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None or entry.model is None or self._someone_is_impatient(None):
                return None
            return self._lease(key, entry)

    def pin(self, key: Key) -> Lease[Model] | None:
        """One lease more of a model that is leased already: never waits its turn. None where it is not loaded."""
        with self._changed:
            entry = self._entries.get(key)
            return None if entry is None or entry.model is None else self._lease(key, entry)

    def state(self) -> Residents[Key]:
        with self._changed:
            loaded = [(key, entry) for key, entry in self._entries.items() if entry.model is not None]
            return Residents(
                bytes=self._bytes(),
                budget_bytes=self._budget,
                keys=tuple(key for key, _ in loaded),
                pinned=tuple(key for key, entry in loaded if entry.pins),
            )

    def _enter(self, key: Key, size: int, deadline: float | None) -> tuple[_Entry[Model], bool]:
        """The key's entry with one pin for the caller, and whether the caller is the one to load it. Holds the lock."""
        ticket = object()
        self._waiting[ticket] = self._clock()
        try:
            while True:
                if not self._someone_is_impatient(ticket):
                    entry = self._entries.get(key)
                    if entry is not None:
                        entry.pins += 1
                        return entry, False
                    if self._make_room(size):
                        entry = self._entries[key] = _Entry(size, pins=1)
                        return entry, True
                self._wait(deadline)
        finally:
            del self._waiting[ticket]
            self._changed.notify_all()

    def _someone_is_impatient(self, mine: object | None) -> bool:
        """Whether the oldest waiter is another one, and has waited for too long."""
        oldest = next(iter(self._waiting.items()), None)
        return oldest is not None and oldest[0] is not mine and self._clock() - oldest[1] > self._patience_s

    def _make_room(self, size: int) -> bool:
        """Drop idle models, oldest first, if that makes room; drops none where it would not."""
        needed = self._bytes() + size - self._budget
        idle = [key for key, entry in self._entries.items() if entry.pins == 0]
        leaving: list[Key] = []
        for key in idle:
            if needed <= 0:
                break
            leaving.append(key)
            needed -= self._entries[key].bytes
        if needed > 0:
            return False
        for key in leaving:
            model = self._entries.pop(key).model
            if model is not None:
                self._unload(model)
        return True

    def _fill(self, key: Key, entry: _Entry[Model]) -> None:
        """Load outside the lock; a failure takes the entry out of the table, and nothing else."""
        try:
            model = self._load(key)
        except BaseException as error:
            with self._changed:
                entry.error = error
                del self._entries[key]
                self._changed.notify_all()
            raise
        with self._changed:
            entry.model = model
            self._changed.notify_all()

    def _await(self, key: Key, entry: _Entry[Model], deadline: float | None) -> Lease[Model]:
        """The caller already holds a pin; it becomes the lease."""
        with self._changed:
            while entry.model is None and entry.error is None:
                try:
                    self._wait(deadline)
                except BaseException:
                    self._unpin(entry)
                    raise
            if entry.error is not None:
                raise _same(entry.error)
            return self._lease(key, entry, pinned=True)

    def _lease(self, key: Key, entry: _Entry[Model], pinned: bool = False) -> Lease[Model]:
        entry.pins += 0 if pinned else 1
        self._entries.move_to_end(key)
        assert entry.model is not None
        return Lease(entry.model, lambda: self._unpin(entry))

    def _unpin(self, entry: _Entry[Model]) -> None:
        with self._changed:
            entry.pins -= 1
            self._changed.notify_all()

    def _wait(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - self._clock()
        if left is not None and left <= 0:
            raise DeadlineExceeded
        self._changed.wait(min(left or self._patience_s, self._patience_s))  # also wakes to become impatient

    def _bytes(self) -> int:
        return sum(entry.bytes for entry in self._entries.values())


def _same(error: BaseException) -> BaseException:
    """For those who waited for another's load: the same kind and message, without sharing one traceback."""
    if isinstance(error, ModelError):
        return type(error)(str(error))
    return error
