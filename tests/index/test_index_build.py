"""`parakh index build`: embeddings become a partition, whole, or are refused by row."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

from deployments.similarity.content import PDQ_ENCODER, PartitionKey
from deployments.similarity.values import Filter
from tests.index.index_world import CLIP, DIMENSION, KEY, NAME, World, table, vectors


def test_a_matrix_becomes_a_partition_whose_ids_are_row_numbers(world: World) -> None:
    matrix = vectors(600)
    told = world.build(matrix)
    assert "600 rows loaded" in told.out
    assert "rows/s" in told.out
    assert "row numbers, from 1" in told.out
    owner = world.opened()
    (found,) = owner.search(KEY, CLIP, [matrix[41]], 1)
    assert found.ids == ("42",)
    item = owner.get(KEY, ["42"])["42"]
    assert (item.language, item.content_type) == ("hi", "video")
    owner.close()
    report = world.stats()
    assert (report["items"], report["trained_rows"], report["encoder"]["name"]) == (600, 600, "clip")


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("kind", ["txt", "npy"])
def test_ids_come_from_a_file_beside_it_or_by_name(world: World, beside: bool, kind: str) -> None:
    ids = ["नमस्ते", "a b", "line\u2028break"]
    np.save(world.directory / "v.npy", vectors(3))
    path = world.directory / (f"v.ids.{kind}" if beside else f"other.{kind}")
    if kind == "txt":
        path.write_bytes("\r\n".join(ids).encode())
    else:
        np.save(path, np.array(ids))
    named = [] if beside else ["--ids", str(path)]
    assert world.parakh("build", NAME, world.directory / "v.npy", "--encoder", "clip@1", *named).code == 0
    owner = world.opened()
    assert owner.scan(KEY) == sorted(ids, key=str.encode)
    owner.close()


def test_a_table_brings_time_language_type_and_attributes(world: World) -> None:
    path = table(
        world.directory / "t.parquet",
        id=["a", "b"],
        vector=[row.tolist() for row in vectors(2)],
        created_at=pa.array([1_700_000_000_500_000, None], pa.timestamp("us", "UTC")),
        language=["ta-IN", None],
        content_type=["image", None],
        attributes=['{"owner": "studio"}', None],
        colour=["red", "blue"],
    )
    told = world.parakh("build", NAME, path, "--encoder", "clip@1")
    assert told.code == 0, told.err
    assert "ignored columns: colour" in told.out
    owner = world.opened()
    a, b = (owner.get(KEY, ["a", "b"])[id_] for id_ in "ab")
    assert (a.created_at, a.language, a.content_type, a.attributes) == (
        1_700_000_000.5,
        "ta",
        "image",
        {"owner": "studio"},
    )
    assert (b.language, b.content_type, b.attributes) == ("hi", "video", {})
    (found,) = owner.search(KEY, CLIP, [vectors(1)[0]], 2, filter=Filter(languages=frozenset({"ta"})))
    assert found.ids == ("a",)
    owner.close()


@pytest.mark.parametrize(
    "column",
    [
        pa.array(vectors(3).tolist(), pa.list_(pa.float32(), DIMENSION)),
        pa.array(vectors(3).tolist(), pa.large_list(pa.float64())),
        pa.array(vectors(3).astype(np.float16).tolist(), pa.list_(pa.float16())),
    ],
    ids=lambda column: str(column.type),
)
def test_every_list_of_numbers_is_a_vector(world: World, column: pa.Array) -> None:
    path = table(world.directory / "t.parquet", id=[1, 2, 3], vector=column, created_at=[0.5, None, 2.0])
    assert world.parakh("build", NAME, path, "--encoder", "clip@1").code == 0
    owner = world.opened()
    assert owner.scan(KEY) == ["1", "2", "3"]
    assert owner.get(KEY, ["1"])["1"].created_at == 0.5
    owner.close()


def test_signatures_are_bytes(world: World) -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (5, 32), dtype=np.uint8)
    np.save(world.directory / "h.npy", hashes)
    name = "known-bad.any.image.pdq"
    assert world.parakh("build", name, world.directory / "h.npy", "--encoder", "clip@1").code == 2
    assert world.parakh("build", name, world.directory / "h.npy", "--encoder", "pdq@1").code == 0
    owner = world.opened()
    (found,) = owner.search(PartitionKey.parse(name), PDQ_ENCODER, [hashes[3]], 1, threshold=0)
    assert found.ids == ("4",)
    owner.close()


def test_building_again_replaces_and_says_how_many(world: World) -> None:
    world.build(vectors(20), [f"p{n}" for n in range(20)])
    told = world.build(vectors(10, seed=1), [f"p{n}" for n in range(15, 25)])
    assert "5 of them replaced what was there" in told.out
    assert world.stats()["items"] == 25


def test_the_records_know_what_came_from_outside(world: World) -> None:
    """Else reconciliation would take it for posts that were erased, and remove it."""
    world.build(vectors(3))
    with closing(sqlite3.connect(world.directory / "data" / "records.db")) as records:
        known = records.execute("SELECT bank, item_id FROM external_items ORDER BY item_id").fetchall()
    assert known == [("posts", "1"), ("posts", "2"), ("posts", "3")]


@pytest.mark.parametrize(
    ("partition", "encoder", "complaint"),
    [
        ("posts.hi.video", "clip@1", "bank.language.content_type.modality"),
        ("nosuch.hi.video.visual", "clip@1", "no bank"),
        ("posts.hi.vdeo.visual", "clip@1", "no content type"),
        ("posts.hi.video.smell", "clip@1", "no modality"),
        ("posts.xx.video.visual", "clip@1", "posts.any.video.visual"),
        ("protected.hi.video.visual", "clip@1", "protected.any.video.visual"),
        (NAME, "clip", "NAME@VERSION"),
        (NAME, "pdq@1", "pdq partitions"),
        (NAME, None, "--encoder"),
    ],
)
def test_a_partition_that_no_search_looks_into_is_not_made(
    world: World, partition: str, encoder: str | None, complaint: str
) -> None:
    np.save(world.directory / "v.npy", vectors(3))
    named = [] if encoder is None else ["--encoder", encoder]
    told = world.parakh("build", partition, world.directory / "v.npy", *named)
    assert told.code == 2
    assert complaint in told.err
    assert not world.root.exists()


def test_vectors_of_another_encoder_or_dimension_do_not_mix(world: World) -> None:
    world.build(vectors(3))
    path = world.directory / "wide.npy"
    np.save(path, np.ones((2, 12), np.float32))
    told = world.parakh("build", NAME, path, "--encoder", "clip@1")
    assert told.code == 2
    assert "12 dimensions" in told.err
    told = world.parakh("build", NAME, path, "--encoder", "clip@2")
    assert told.code == 1
    assert "parakh index begin" in told.err
    assert world.stats()["items"] == 3
