"""A small embedded index in which everything happens all the time, a model to hold it against, and ways to harm it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployments.similarity.content import EncoderId
from deployments.similarity.embedded.index import EmbeddedIndex
from deployments.similarity.settings import IndexSettings
from deployments.similarity.values import FrameVectors, Item

DIMENSION = 16
NEAR = 0.05
ENCODER = EncoderId("test-encoder", "1")
BUSY = IndexSettings(
    metric="l2",
    index_type="IVF_FLAT",
    row_dtype="float32",
    buffer_bytes=4096,  # 64 rows
    seal_rows=64,
    train_from=256,
    retrain_growth=0.5,
    max_dead_share=0.1,
    snapshot_s=0.05,
    nprobe=2048,  # every list: what is there is found
)


def opened(directory: Path, *, settings: IndexSettings = BUSY, maintain: bool = False) -> EmbeddedIndex:
    return EmbeddedIndex(directory, settings, DIMENSION, ENCODER, maintain=maintain)


def vector_of(number: int) -> NDArray[np.float32]:
    """One of its own for each number: nothing else is within NEAR of it."""
    return np.random.default_rng(number).standard_normal(DIMENSION).astype(np.float32)


def item(id_: str, number: int, *, frames: bool = False) -> Item:
    vectors = FrameVectors(np.full((2, DIMENSION), 0.5, np.float16), np.arange(2, dtype=np.float32))
    return Item(
        id_,
        vector_of(number),
        float(number),
        ("hi", "ta", "en")[number % 3],
        "video",
        {"number": number},
        vectors if frames else None,
    )


def items(numbers: Iterable[int], *, frames: bool = False) -> list[Item]:
    return [item(f"id-{number}", number, frames=frames) for number in numbers]


def check(index: EmbeddedIndex, model: Mapping[str, int], *, unsure: Mapping[str, set[int | None]] = {}) -> None:
    """The index holds exactly the model (id -> number), and finds it; of an `unsure` id one of the states given."""
    held = contents(index)
    for id_ in set(held) | set(model) | set(unsure):
        allowed = unsure.get(id_, {model.get(id_)})
        assert held.get(id_) in allowed, f"{id_}: holds {held.get(id_)}, and should one of {allowed}"
    assert index.count() == len(held)
    numbers = list(held.items())
    for start in range(0, len(numbers), 64):
        some = numbers[start : start + 64]
        found = index.search([vector_of(number) for _, number in some], 3)
        for (_, number), neighbours in zip(some, found, strict=True):
            assert held[neighbours.ids[0]] == number
            assert neighbours.scores[0] < NEAR
    everything = index.search([np.zeros(DIMENSION, np.float32)], 1000, exact=True)[0]
    if len(held) <= 1000:
        assert set(everything.ids) == set(held)


def contents(index: EmbeddedIndex) -> dict[str, int]:
    """id -> number of all it holds, read and compared whole."""
    held: dict[str, int] = {}
    ids: list[str] = []
    while more := index.scan(ids[-1] if ids else "", 500):
        ids += more
        for id_, got in index.get(more).items():
            number = int(got.attributes["number"])
            wanted = item(id_, number)
            assert np.array_equal(got.vector, wanted.vector)
            assert (got.created_at, got.language) == (wanted.created_at, wanted.language)
            held[id_] = number
    assert len(ids) == len(held)
    return held


def copy(directory: Path, to: Path) -> Path:
    """What a process that dies at this moment leaves: the files as they are now."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(directory, to, ignore=shutil.ignore_patterns("*-shm"))
    return to


def filled(directory: Path, rows: int = 400, *, frames: bool = False, settings: IndexSettings = BUSY) -> dict[str, int]:
    """An index at rest with segments, tombstones and rows that no segment covers; and what it holds."""
    with closing(opened(directory, settings=settings)) as index:
        for start in range(0, rows, 50):
            index.upsert(items(range(start, start + 50), frames=frames))
        index.upkeep.maintain()
        index.upkeep.snapshot()
        index.delete([f"id-{number}" for number in range(0, rows, 40)])
        index.upsert(items(range(rows, rows + 10), frames=frames))
        assert index.store.segments()
        return contents(index)


def execute(directory: Path, statement: str, *parameters: object) -> None:
    """Change the database behind the index's back: what damage to a row comes to."""
    with closing(sqlite3.connect(directory / "rows.db")) as connection:
        changed = connection.execute(statement, parameters)
        connection.commit()
        assert changed.rowcount != 0, statement


def flip(path: Path, offset: int, mask: int = 0xFF) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)
