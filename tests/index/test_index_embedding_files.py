"""Files of embeddings that are refused, and what is said of them."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.index.index_world import DIMENSION, NAME, World, table, vectors


def _bad_files(directory: Path) -> dict[str, tuple[list[str], str]]:
    """What is wrong -> (arguments, complaint)."""

    def array(name: str, value: Any) -> str:
        np.save(directory / name, value, allow_pickle=True)
        return str(directory / name)

    def raw(name: str, data: bytes) -> str:
        (directory / name).write_bytes(data)
        return str(directory / name)

    good = array("good.npy", vectors(3))
    zipped = io.BytesIO()
    np.savez(zipped, vectors(3))
    whole = table(directory / "whole.parquet", id=["a"], vector=[[1.0] * DIMENSION]).read_bytes()
    return {
        "pickled": ([raw("pickle.npy", pickle.dumps(vectors(3)))], "never read"),
        "objects": ([array("objects.npy", np.array([{}, []], object))], "never read"),
        "npz": ([raw("zip.npy", zipped.getvalue())], "never read"),
        "empty file": ([raw("empty.npy", b"")], "never read"),
        "cut short": ([raw("cut.npy", Path(good).read_bytes()[:-40])], "never read"),
        "a list": ([array("list.npy", vectors(3)[0])], "not a matrix"),
        "text": ([array("text.npy", np.array([["a", "b"]]))], "not a matrix"),
        "no rows": ([array("none.npy", vectors(0))], "no rows"),
        "too few ids": ([good, "--ids", raw("two.txt", b"a\nb\n")], "holds 2 ids"),
        "ids not UTF-8": ([good, "--ids", raw("latin.txt", b"\xff\n\n\n")], "cannot be read as ids"),
        "ids a matrix": ([good, "--ids", array("ids.npy", vectors(3))], "not a list of ids"),
        "ids gone": ([good, "--ids", "nowhere.txt"], "cannot be read as ids"),
        "ids of a table": ([raw("w.parquet", whole), "--ids", "x.txt"], "column `id`"),
        "gone": ([str(directory / "gone.npy")], "no file"),
        "another kind": ([raw("v.csv", b"1,2")], ".npy or .parquet"),
        "no vectors": ([str(table(directory / "n.parquet", id=["a"]))], "no column vector"),
        "no ids": ([str(table(directory / "i.parquet", vector=[[1.0]]))], "no column id"),
        "vectors of text": ([str(table(directory / "s.parquet", id=["a"], vector=[["x"]]))], "column vector cannot be"),
        "time is text": (
            [str(table(directory / "c.parquet", id=["a"], vector=[[1.0]], created_at=["now"]))],
            "column created_at cannot be",
        ),
        "no table": ([raw("x.parquet", b"PAR1 nonsense")], "cannot be read as a Parquet table"),
        "torn table": ([raw("torn.parquet", whole[:100] + whole[120:])], "Parquet table"),
    }


@pytest.mark.parametrize("wrong", [
    "pickled", "objects", "npz", "empty file", "cut short", "a list", "text", "no rows", "too few ids",
    "ids not UTF-8", "ids a matrix", "ids gone", "ids of a table", "gone", "another kind", "no vectors", "no ids",
    "vectors of text", "time is text", "no table", "torn table",
])  # fmt: skip
def test_a_bad_file_is_refused_before_anything_is_written(world: World, wrong: str) -> None:
    arguments, complaint = _bad_files(world.directory)[wrong]
    told = world.parakh("build", NAME, *arguments, "--encoder", "clip@1")
    assert told.code == 2
    assert complaint in told.err.replace("\n", " ")
    assert not list(world.root.glob("*/g*"))


_WORSE: dict[str, tuple[Any, str]] = {
    "NaN": ([float("nan")] * DIMENSION, "NaN"),
    "infinity": ([float("inf")] * DIMENSION, "infinity"),
    "zero": ([0.0] * DIMENSION, "zero vector"),
    "short": ([1.0] * 3, "holds 8 dimensions"),
    "none": (None, "There is no vector"),
}


@pytest.mark.parametrize("wrong", _WORSE)
def test_bad_rows_are_told_by_number_and_nothing_is_written(world: World, wrong: str) -> None:
    value, complaint = _WORSE[wrong]
    rows = [row.tolist() for row in vectors(4)]
    rows[2] = value
    path = table(world.directory / "t.parquet", id=["a", "b", "c", "d"], vector=rows)
    told = world.parakh("build", NAME, path, "--encoder", "clip@1")
    assert told.code == 2
    assert "row 3: " in told.err
    assert complaint in told.err
    assert "nothing was written" in told.err
    assert world.parakh("stats", "--json").reports == []
    told = world.parakh("build", NAME, path, "--encoder", "clip@1", "--skip-refused")
    assert told.code == 1  # something was refused
    assert "3 rows loaded" in told.out
    assert "row 3: " in told.err
    assert world.stats()["items"] == 3


@pytest.mark.parametrize(
    ("ids", "attributes", "complaint"),
    [
        (["a", "b", "a"], [None] * 3, "row 3: The id 'a' is that of row 1."),
        (["a", "b", ""], [None] * 3, "row 3: An item needs an id"),
        (["a", "b", None], [None] * 3, "row 3: There is no id."),
        (["a", "b", "c\x00"], [None] * 3, "row 3: An id has at most"),
        (["a", "b", "c"], [None, None, "[1]"], "row 3: The attributes are not a JSON object"),
        (["a", "b", "c"], [None, None, "{"], "row 3: The attributes are not a JSON object"),
        (["a", "b", "c"], [None, None, '{"_": 1}'], "row 3: The attributes are not a JSON object"),
        (["a", "b", "c"], [None, None, json.dumps({"x": "y" * 5000})], "row 3: The attributes exceed"),
    ],
)
def test_bad_ids_and_attributes_are_bad_rows(
    world: World, ids: list[str], attributes: list[str], complaint: str
) -> None:
    path = table(
        world.directory / "t.parquet", id=ids, vector=vectors(3).tolist(), attributes=pa.array(attributes, pa.string())
    )
    told = world.parakh("build", NAME, path, "--encoder", "clip@1")
    assert told.code == 2
    assert complaint in told.err.replace("\n", " ")
    assert world.parakh("stats", "--json").reports == []


def test_a_file_of_bad_rows_alone_is_refused_even_so(world: World) -> None:
    np.save(world.directory / "v.npy", np.zeros((300, DIMENSION), np.float32))
    told = world.parakh("build", NAME, world.directory / "v.npy", "--encoder", "clip@1")
    assert told.code == 2
    assert "at least 100 rows are refused" in told.err
    assert "and 80 more" in told.err
    told = world.parakh("build", NAME, world.directory / "v.npy", "--encoder", "clip@1", "--skip-refused")
    assert told.code == 2
    assert "every row is refused" in told.err
