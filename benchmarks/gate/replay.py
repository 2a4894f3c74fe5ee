"""How fast are stored decisions decided again, and does memory stay flat? Rows a second over a Parquet file.

Baseline: the gate's lookup row by row in Python, over the first part of the same file.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet

from benchmarks.gate.worlds import World
from benchmarks.report import Row, against
from deployments.review_gate import batches
from deployments.review_gate.artefact import Calibration

ROW_GROUP = 500_000


def rows(calibration: Calibration, quick: bool) -> list[Row]:
    n = 2_000_000 if quick else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.parquet"
        write(path, n)
        process, memory, reviews = psutil.Process(), [], 0
        started, before = time.perf_counter(), process.memory_info().rss
        for _, reviewed in batches.replay(path, calibration):
            reviews += int(reviewed.sum())
            memory.append(process.memory_info().rss)
        seconds = time.perf_counter() - started
        slow = one_by_one(path, calibration, 50_000)
    tenth = max(len(memory) // 10, 1)
    unit = f"rows/s, {n:,} rows of Parquet, one pass"
    return [
        against("replay_rows_per_s", n / seconds, f"{unit} (baseline: row by row)", slow),
        Row("replay_review_share", reviews / n, "share of rows"),
        Row("replay_memory_mib", (max(memory) - before) / 2**20, "MiB above the start, at most"),
        Row(
            "replay_memory_growth_mib",
            (max(memory[-tenth:]) - max(memory[:tenth])) / 2**20,
            "MiB, last tenth less first",
        ),
    ]


def write(path: Path, n: int) -> None:
    """Scores of many posts, row group by row group."""
    world, rng = World(), np.random.default_rng(0)
    languages, types = (pa.array(list(names)) for names in (world.languages, world.content_types))
    writer = None
    for start in range(0, n, ROW_GROUP):
        size = min(ROW_GROUP, n - start)
        columns = {
            "language": pa.DictionaryArray.from_arrays(
                rng.integers(0, len(languages), size).astype(np.int32), languages
            ),
            "content_type": pa.DictionaryArray.from_arrays(rng.integers(0, len(types), size).astype(np.int32), types),
            "milestone": rng.choice([1000, 2000], size),
            "score": rng.beta(0.5, 3, size),
        }
        table = pa.table(columns)
        writer = writer or pa.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def one_by_one(path: Path, calibration: Calibration, n: int) -> float:
    part = next(pa.parquet.ParquetFile(path).iter_batches(n)).to_pylist()
    started = time.perf_counter()
    for row in part:
        threshold = calibration.lookup(row["language"], row["content_type"], row["milestone"])[1]
        _ = threshold is None or row["score"] >= threshold
    return len(part) / (time.perf_counter() - started)
