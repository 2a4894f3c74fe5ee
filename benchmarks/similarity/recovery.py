"""How long after a kill -9 an index answers again: segments opened and verified, the tail replayed, a search made."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Row
from benchmarks.similarity.data import embeddings
from benchmarks.similarity.indexes import ENCODER, items, load
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.settings import IndexSettings

_TAIL = 20_000  # rows that no segment file holds when the process dies
_BATCH = 1000


def rows(n: int, d: int, name: str) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="parakh-benchmark-") as directory:
        written = multiprocessing.get_context("spawn").Queue()
        writer = multiprocessing.get_context("spawn").Process(target=_fill, args=(directory, n, d, written))
        writer.start()
        load_s = written.get()
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        query = embeddings(1, d, seed=1)
        started = time.perf_counter()
        index = EmbeddedIndex.open(Path(directory), IndexSettings(), d, ENCODER, create=False)
        found = index.search(query, 10)
        recovery_s = time.perf_counter() - started
        assert len(found[0]) == 10
        assert index.count() == n + _TAIL
        index.close()
    return [
        Row(name, recovery_s, f"s, {n + _TAIL} rows, {_TAIL} of them replayed, d={d}"),
        Row(f"load_rows_per_s_d{d}", n / load_s, "rows/s, durable, trained"),
    ]


def _fill(directory: str, n: int, d: int, written: Any) -> None:
    index = EmbeddedIndex.open(Path(directory), IndexSettings(), d, ENCODER)
    load_s = load(index, embeddings(n, d))
    tail = embeddings(_TAIL, d, seed=2)
    for start in range(0, _TAIL, _BATCH):
        index.upsert(items(tail[start : start + _BATCH], n + start))
    written.put(load_s)
    time.sleep(600)  # to be killed
