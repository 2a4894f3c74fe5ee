"""Two ways to let many pass and one alone: `Gate` (many writes, or one change of generations), `Lease` (many users of
an index, then its end)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """A readers-writer lock; whoever wants to be alone goes before those who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False
        self._wanting = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._wanting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._wanting += 1
            try:
                self._changed.wait_for(lambda: not self._alone and not self._inside)
            finally:
                self._wanting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class Lease:
    """Counts the users of something that is closed one day."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._ended = False

    def take(self) -> bool:
        """False where it has ended."""
        with self._changed:
            if self._ended:
                return False
            self._users += 1
            return True

    def give_back(self) -> None:
        with self._changed:
            self._users -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """No new users; returns when the last is gone."""
        with self._changed:
            self._ended = True
            self._changed.wait_for(lambda: not self._users)
