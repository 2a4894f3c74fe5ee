"""Search latency alone and under writes: the embedded index, and plain FAISS behind one lock, on the same schedule.

An open loop: operations are due at planned times whatever became of those before, and latency counts from when one was
due. Two threads search, two write, as a server's pools would. Every write of the embedded index is durable before it
is acknowledged; the plain index writes to memory alone.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Row, against, median, percentile
from benchmarks.similarity.data import Vectors, embeddings
from benchmarks.similarity.indexes import PlainFaiss, embedded, items
from deployments.similarity.embedded.index import EmbeddedIndex

_K = 10
_ROWS_A_WRITE = 10
_SNAPSHOT_S = 5.0


@dataclass(frozen=True)
class Load:
    rate: int = 800  # operations a second
    searches: float = 0.9  # share; of the rest three in five add rows, two in five delete some
    seconds: float = 9.0


class Target(Protocol):
    def search(self, query: Vectors) -> None: ...

    def add(self, vectors: Vectors, first: int) -> None: ...

    def delete(self, first: int) -> None: ...

    def snapshot(self) -> None: ...


class Embedded:
    def __init__(self, index: EmbeddedIndex) -> None:
        self._index = index

    def search(self, query: Vectors) -> None:
        self._index.search(query, _K)

    def add(self, vectors: Vectors, first: int) -> None:
        self._index.upsert(items(vectors, first))

    def delete(self, first: int) -> None:
        self._index.delete([str(number) for number in range(first, first + _ROWS_A_WRITE)])

    def snapshot(self) -> None:
        self._index.upkeep.snapshot()


class Locked:
    """Plain FAISS, one lock around everything, as its manual asks where one writes."""

    def __init__(self, plain: PlainFaiss, directory: Path) -> None:
        self._plain = plain
        self._lock = threading.Lock()
        self._path = str(directory / "plain.faiss")
        self._rows = [plain.rows]

    def search(self, query: Vectors) -> None:
        with self._lock:
            faiss.omp_set_num_threads(1)
            self._plain.search(query, _K, 4 * _K)

    def add(self, vectors: Vectors, first: int) -> None:
        with self._lock:
            room = np.arange(first, first + len(vectors))
            self._plain.rows = _with_room(self._plain.rows, first + len(vectors))
            self._plain.rows[room] = vectors
            self._plain.index.add_with_ids(vectors, room)

    def delete(self, first: int) -> None:
        ids = np.arange(first, first + _ROWS_A_WRITE)
        with self._lock:
            self._plain.index.remove_ids(faiss.IDSelectorArray(ids))

    def snapshot(self) -> None:
        with self._lock:
            faiss.write_index(self._plain.index, self._path)


def rows(n: int, d: int, runs: int, seconds: float) -> list[Row]:
    vectors = embeddings(n, d)
    queries = embeddings(2000, d, seed=1)
    fresh = embeddings(60_000, d, seed=2)
    ninety, fifty = Load(seconds=seconds), Load(searches=0.5, seconds=seconds)
    with embedded(vectors) as index, tempfile.TemporaryDirectory() as directory:
        details = index.stats().details
        plain = PlainFaiss(vectors, details["nlist"], details["effort"])
        plain.index.set_direct_map_type(faiss.DirectMap.Hashtable)
        targets: dict[str, Target] = {"embedded": Embedded(index), "locked": Locked(plain, Path(directory))}
        tails: dict[str, list[float]] = {}
        next_row = n
        next_dead = 0
        for _ in range(runs):
            for name, target in targets.items():
                alone = drive(target, Load(searches=1.0, seconds=seconds), queries, fresh, next_row, next_dead)
                tails.setdefault(f"{name}_read_p50", []).append(percentile(alone.searches, 0.5))
                tails.setdefault(f"{name}_read_p99", []).append(percentile(alone.searches, 0.99))
                for label, load in (("90_10", ninety), ("50_50", fifty)):
                    done = drive(target, load, queries, fresh, next_row, next_dead, snapshots=True)
                    tails.setdefault(f"{name}_{label}_p50", []).append(percentile(done.searches, 0.5))
                    tails.setdefault(f"{name}_{label}_p99", []).append(percentile(done.searches, 0.99))
                    tails.setdefault(f"{name}_{label}_write_p99", []).append(percentile(done.writes, 0.99))
                    if label == "90_10":
                        ratio = percentile(done.searches, 0.99) / percentile(alone.searches, 0.99)
                        tails.setdefault(f"{name}_ratio", []).append(ratio)
                    next_row += done.rows_added
                    next_dead += done.rows_deleted
    measured = [
        against(
            "mixed_p99_over_read_p99",
            median(tails["embedded_ratio"]),
            "(baseline: one lock)",
            median(tails["locked_ratio"]),
        )
    ]
    for name in ("read_p50", "read_p99", "90_10_p50", "90_10_p99", "50_50_p50", "50_50_p99", "90_10_write_p99"):
        ours, theirs = median(tails[f"embedded_{name}"]), median(tails[f"locked_{name}"])
        measured.append(
            against(
                f"search_{name}" if "write" not in name else name, ours * 1e3, "ms (baseline: one lock)", theirs * 1e3
            )
        )
    return measured


@dataclass
class Done:
    searches: list[float] = field(default_factory=list)  # seconds from when due
    writes: list[float] = field(default_factory=list)
    rows_added: int = 0
    rows_deleted: int = 0


def drive(
    target: Target,
    load: Load,
    queries: Vectors,
    fresh: Vectors,
    next_row: int,
    next_dead: int,
    *,
    snapshots: bool = False,
) -> Done:
    """Run one schedule to its end."""
    random = np.random.default_rng(next_row)
    kinds = random.random(int(load.rate * load.seconds))
    searches: list[tuple[float, Callable[[], None]]] = []
    writes: list[tuple[float, Callable[[], None]]] = []
    done = Done()
    for number, kind in enumerate(kinds):
        due = number / load.rate
        if kind < load.searches:
            query = queries[number % len(queries)][None]
            searches.append((due, lambda query=query: target.search(query)))  # type: ignore[misc]
        elif kind < load.searches + 0.6 * (1 - load.searches):
            first = (done.rows_added * 7) % (len(fresh) - _ROWS_A_WRITE)
            batch, at = fresh[first : first + _ROWS_A_WRITE], next_row + done.rows_added
            writes.append((due, lambda batch=batch, at=at: target.add(batch, at)))  # type: ignore[misc]
            done.rows_added += _ROWS_A_WRITE
        else:
            dead = next_dead + done.rows_deleted
            writes.append((due, lambda dead=dead: target.delete(dead)))  # type: ignore[misc]
            done.rows_deleted += _ROWS_A_WRITE
    over = threading.Event()
    started = time.perf_counter() + 0.05
    threads = [threading.Thread(target=_work, args=(searches, done.searches, started, turn, 2)) for turn in (0, 1)]
    threads += [threading.Thread(target=_work, args=(writes, done.writes, started, turn, 2)) for turn in (0, 1)]
    keeper = threading.Thread(target=_snapshots, args=(target, over)) if snapshots else None
    for thread in [*threads, *([keeper] if keeper else [])]:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    if keeper:
        keeper.join()
    return done


def _work(
    schedule: list[tuple[float, Callable[[], None]]], latencies: list[float], started: float, turn: int, of: int
) -> None:
    for due, operation in schedule[turn::of]:
        wait = started + due - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        operation()
        latencies.append(time.perf_counter() - started - due)


def _snapshots(target: Target, over: threading.Event) -> None:
    while not over.wait(_SNAPSHOT_S):
        target.snapshot()


def _with_room(rows: NDArray[np.float16], needed: int) -> NDArray[np.float16]:
    if needed <= len(rows):
        return rows
    return np.concatenate([rows, np.zeros((max(needed - len(rows), 50_000), rows.shape[1]), rows.dtype)])
