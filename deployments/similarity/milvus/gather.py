"""Group commit without a thread of its own: calls made while one runs are run together next, by one of the callers."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from deployments.runtime.errors import NodeUnavailable

Given = TypeVar("Given")
Result = TypeVar("Result")


class Gather(Generic[Given, Result]):
    """Calls `run` with what several threads gave, never twice at a time, in the order in which they gave it.

    run: one outcome for each thing given; an exception among them is raised to its caller alone, one that `run`
    itself raises to all.
    """

    def __init__(self, run: Callable[[list[Given]], Sequence[Result | Exception]]) -> None:
        self._run = run
        self._changed = threading.Condition()
        self._waiting: list[_Call[Given, Result]] = []
        self._running = False

    def __call__(self, given: Given) -> Result:
        mine: _Call[Given, Result] = _Call(given)
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: mine.done or not self._running)
            if mine.done:
                return mine.result()
            self._running = True
            calls, self._waiting = self._waiting, []
        outcomes: Sequence[Result | Exception] = [NodeUnavailable()] * len(calls)
        try:
            outcomes = self._run([call.given for call in calls])
        except Exception as error:  # noqa: BLE001  # whatever it was, each caller must hear of it
            outcomes = [copy.copy(error) for _ in calls]
        finally:
            with self._changed:
                for call, outcome in zip(calls, outcomes, strict=True):
                    call.done, call.outcome = True, outcome
                self._running = False
                self._changed.notify_all()
        return mine.result()


@dataclass
class _Call(Generic[Given, Result]):
    given: Given
    done: bool = False
    outcome: Result | Exception | None = None

    def result(self) -> Result:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return cast(Result, self.outcome)
