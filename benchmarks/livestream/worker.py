"""A contender as a child process: it consumes all the time, and tells what it spent between two moments.

    parent: begin -> sends clips to the broker, waits for their results to come out -> end
    child:  begin -> remembers its threads' processor time                         -> end: what they spent since

Processor time is the kernel's own count for each thread, in nanoseconds. Threads of the pool named `batch`, and those
that Python did not start, run the model; whatever else the process spends is the path.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import psutil

_SETTLE_S = 0.3  # after the last result: rows are marked as published, offsets committed


@dataclass(frozen=True)
class Setup:
    """What a contender is told."""

    broker: str
    records_url: str
    directory: Path


class Side(Protocol):
    async def start(self) -> None:
        """Loads, warms up, and begins to consume."""
        ...

    async def alone(self, count: int) -> None:
        """That many clips through the model, as samples."""
        ...


@dataclass(frozen=True)
class Spent:
    """Processor time in seconds."""

    total: float
    model: float
    loop: float  # the event loop's thread; what is left are helper threads


class Worker:
    """The parent's end."""

    def __init__(self, make: Callable[[Setup], Side], setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_child, args=(make, setup, far), daemon=True)
        self._process.start()

    def ready(self) -> None:
        self._answer(300)

    def alone(self, count: int) -> Spent:
        self.begin()
        self._ask("alone", count)
        return self.end()

    def begin(self) -> None:
        self._ask("begin")

    def end(self) -> Spent:
        found: Spent = self._ask("end")
        return found

    def memory_mib(self) -> float:
        """That nobody else shares."""
        return float(psutil.Process(self._process.pid).memory_full_info().uss) / 2**20

    def stop(self) -> None:
        """At once: what a farewell costs is nobody's figure."""
        self._process.kill()
        self._process.join()

    def _ask(self, verb: str, count: int = 0) -> Any:
        self._pipe.send((verb, count))
        return self._answer(600)

    def _answer(self, timeout_s: float) -> Any:
        if not self._pipe.poll(timeout_s):
            raise TimeoutError("a contender does not answer")
        return self._pipe.recv()


def _child(make: Callable[[Setup], Side], setup: Setup, pipe: Connection) -> None:
    asyncio.run(_obey(make(setup), pipe))


async def _obey(side: Side, pipe: Connection) -> None:
    await side.start()
    pipe.send(None)
    before = _threads()
    while True:
        verb, count = await asyncio.to_thread(pipe.recv)
        answer: Spent | None = None
        match verb:
            case "begin":
                before = _threads()
            case "alone":
                await side.alone(count)
            case "end":
                await asyncio.sleep(_SETTLE_S)
                answer = _since(before)
        pipe.send(answer)


@dataclass(frozen=True)
class _Reading:
    process: float
    threads: dict[int, float]


def _threads() -> _Reading:
    found = {int(task.name): _thread_s(task) for task in Path("/proc/self/task").iterdir()}
    return _Reading(time.process_time(), found)


def _thread_s(task: Path) -> float:
    return int((task / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def _since(before: _Reading) -> Spent:
    now = _threads()
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    model = loop = 0.0
    for id_, spent in now.threads.items():
        name = names.get(id_, "")
        if not name or name.startswith("batch"):
            model += spent - before.threads.get(id_, 0.0)
        elif name == "MainThread":
            loop += spent - before.threads.get(id_, 0.0)
    return Spent(now.process - before.process, model, loop)
