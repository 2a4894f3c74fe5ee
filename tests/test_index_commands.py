"""`parakh index` as an operator types it, on real directories: what it prints and refuses, with which exit code."""

from __future__ import annotations

import io
import json
import pickle
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray

from deployments.similarity.content import PDQ_ENCODER, EncoderId, PartitionKey
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.backends import EmbeddedBackend
from deployments.similarity.partitions.partitions import Partitions
from deployments.similarity.partitions.root_lock import RootLock
from deployments.similarity.values import Filter, Item
from serve_app import cli
from serve_app.config import AppConfig
from tests.similarity.embedded_world import execute, flip

NAME = "posts.hi.video.visual"
KEY = PartitionKey.parse(NAME)
CLIP = EncoderId("clip", "1")
DIMENSION = 8


@dataclass
class Told:
    code: int
    out: str
    err: str

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass
class World:
    directory: Path
    config: Path
    run: Callable[..., Told]

    @property
    def root(self) -> Path:
        return self.directory / "data" / "similarity"

    def parakh(self, *args: str | Path) -> Told:
        return self.run("index", *args, "--config", self.config)

    def build(self, vectors: NDArray[Any], ids: list[str] | None = None, *, encoder: str = "clip@1") -> Told:
        path = self.directory / "vectors.npy"
        np.save(path, vectors)
        if ids is not None:
            (self.directory / "vectors.ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
        told = self.parakh("build", NAME, path, "--encoder", encoder)
        assert told.code == 0, told.err
        return told

    def stats(self) -> dict[str, Any]:
        """Of the only partition."""
        (report,) = self.parakh("stats", "--json").reports
        return report

    def opened(self) -> Partitions:
        return Partitions(SimilaritySettings(directory=self.root, lock_wait_s=0), EmbeddedBackend())


@pytest.fixture
def world(
    tmp_path: Path, fake_config: AppConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> World:
    args = {
        "profile": "custom",
        "data_dir": str(tmp_path / "data"),
        "clip": {"encoder": {"model": "fake"}},
        "vggish": {"encoder": {"variant": "fake"}},
        "xlmr": {"encoder": {"model": "fake"}},
        "fusion": {"head": {"artefact": str(fake_config.fusion.head.artefact)}},
        "similarity": {"settings": {"overrides": [{"partition": "posts.*.*.visual", "index": {"train_from": 256}}]}},
    }
    config = tmp_path / "serve.yaml"
    config.write_text(yaml.safe_dump({"applications": [{"name": "parakh", "args": args}]}))

    def run(*args: str | Path) -> Told:
        monkeypatch.setattr(sys, "argv", ["parakh", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Told(int(ended.value.code or 0), out, err)

    return World(tmp_path, config, run)


def vectors(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


# --- build ---


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


def test_a_directory_of_media_is_embedded_and_indexed_by_file_name(world: World, png: bytes, wav: bytes) -> None:
    media = world.directory / "media"
    (media / "more").mkdir(parents=True)
    (media / "cat 1.png").write_bytes(png)
    (media / "more" / "tone.wav").write_bytes(wav)
    (media / "note.txt").write_text("नमस्ते दुनिया, आप कैसे हैं?", encoding="utf-8")
    (media / "broken.png").write_bytes(png[:60])
    (media / "latin.txt").write_bytes(b"\xff\xfe\xff")
    (media / ".hidden").write_bytes(b"x")
    told = world.parakh("build", "posts.any.any.any", media)
    assert told.code == 1  # something was refused
    assert "3 files indexed" in told.out
    assert "broken.png: " in told.err
    assert "latin.txt: The text file is not UTF-8." in told.err
    owner = world.opened()
    assert owner.scan(PartitionKey.parse("posts.any.image.visual")) == ["cat 1.png"]
    assert owner.scan(PartitionKey.parse("posts.any.audio.audio")) == ["more/tone.wav"]
    assert owner.scan(PartitionKey.parse("posts.hi.text.text")) == ["note.txt"]
    assert [id_.split("#")[0] for id_ in owner.scan(PartitionKey.parse("posts.any.image.pdq"))] == ["cat 1.png"]
    owner.close()


def test_the_partitions_name_picks_files_and_modality(world: World, png: bytes, wav: bytes) -> None:
    media = world.directory / "media"
    media.mkdir()
    (media / "cat.png").write_bytes(png)
    (media / "tone.wav").write_bytes(wav)
    told = world.parakh("build", "protected.any.image.visual", media)
    assert told.code == 1
    assert "tone.wav: It is of type audio, not image." in told.err
    (report,) = world.parakh("stats", "--json").reports
    assert (report["partition"], report["items"]) == ("protected.any.image.visual", 1)
    assert world.parakh("build", NAME, media, "--encoder", "clip@1").code == 2
    empty = world.directory / "empty"
    empty.mkdir()
    assert "holds no files" in world.parakh("build", NAME, empty).err


# --- who owns the directory ---


@pytest.mark.parametrize(
    "command",
    [
        ["build", NAME, "vectors.npy", "--encoder", "clip@1"],
        ["stats"],
        ["tune", "--all"],
        ["verify"],
        ["snapshot"],
        ["backup", NAME, "there"],
        ["begin", NAME, "--encoder", "clip@1"],
        ["copy", NAME],
        ["switch", NAME],
        ["rollback", NAME],
        ["retire", NAME],
    ],
    ids=lambda command: command[0],
)
def test_where_a_server_owns_the_directory_one_line_says_who_and_what_to_do(
    world: World, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build(vectors(3))
    monkeypatch.chdir(world.directory)
    lock = RootLock(world.root / "lock")
    try:
        told = world.parakh(*command)
    finally:
        lock.release()
    assert told.code == 1
    (line,) = [line for line in told.err.splitlines() if line.strip()]
    assert "owned by the process with pid" in line
    assert "Stop it first" in line
    assert "--url" in line


def test_what_is_not_there_is_not_made(world: World) -> None:
    assert world.parakh("stats").out.strip() == "There are no partitions."
    told = world.parakh("verify")
    assert told.code == 1
    assert "no similarity index" in told.err
    assert not world.root.exists()
    world.build(vectors(3))
    for command in (["stats"], ["verify"], ["snapshot"], ["tune"], ["switch"], ["copy"], ["retire"]):
        told = world.parakh(*command, "posts.ta.video.visual")
        assert told.code == 1, command
        assert "no partition posts.ta.video.visual" in told.err


# --- stats ---


def test_stats_tell_all_that_there_is_of_a_partition(world: World) -> None:
    world.build(vectors(600))
    told = world.parakh("stats", NAME, "--measure")
    assert told.code == 0
    for said in (
        "clip@1, 8 dimensions, IVF_SQ8 cosine nlist",
        "effort",
        "600 items · 1 segment · 0 buffered · 0 tombstones",
        "of memory",
        "of disk",
        "recall 0.9",
        "newest vector",
        "last snapshot",
        "s ago",
        "duplicate 0.97",
    ):
        assert said in told.out, told.out
    report = world.stats()
    assert report["generations"] == [
        {
            "number": 1,
            "state": "active",
            "encoder": "clip@1",
            "index_type": "IVF_SQ8",
            "items": 600,
            "incomplete": False,
            "damaged": None,
        }
    ]
    assert report["snapshot_at"].endswith("Z")
    assert report["effort"] >= 1


def test_a_damaged_partition_is_told_and_the_others_beside_it(world: World) -> None:
    world.build(vectors(3))
    np.save(world.directory / "v.npy", vectors(2))
    assert world.parakh("build", "posts.ta.video.visual", world.directory / "v.npy", "--encoder", "clip@1").code == 0
    (world.root / NAME / "g0001" / "rows.db").write_bytes(b"nonsense" * 1000)
    told = world.parakh("stats")
    assert told.code == 1
    assert f"{NAME}  damaged: " in told.out
    assert "2 items" in told.out
    reports = {report["partition"]: report for report in world.parakh("stats", "--json").reports}
    assert reports[NAME]["damaged"]
    assert reports["posts.ta.video.visual"]["damaged"] is None
    told = world.parakh("build", NAME, world.directory / "v.npy", "--encoder", "clip@1")
    assert told.code == 1
    assert "is damaged" in told.err
    assert world.parakh("tune", NAME).code == 1
    assert world.parakh("snapshot").code == 1


def test_a_lost_catalog_is_not_hidden_by_a_new_one(world: World) -> None:
    world.build(vectors(3))
    for path in world.root.glob("catalog.db*"):
        path.unlink()
    for command in (["stats"], ["verify"]):
        told = world.parakh(*command)
        assert told.code == 1
        assert "no catalog.db" in told.err
        assert not (world.root / "catalog.db").exists()


@pytest.fixture
def server() -> Iterator[str]:
    """Answers as the HTTP API does: /v1/indexes with one partition, to one key."""
    partition = {
        "partition": NAME,
        "encoder": {"name": "clip", "version": "1"},
        "dimension": 8,
        "index_type": "IVF_SQ8",
        "metric": "cosine",
        "items": 7,
        "memory_bytes": 1,
        "disk_bytes": 2,
        "buffered": 7,
        "deleted": 0,
        "newest_at": "2026-01-01T00:00:00Z",
        "snapshot_at": None,
        "recall_estimate": 0.97,
        "thresholds": {},
        "damaged": None,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") == "Bearer pk_good"
            bodies: dict[str, Any] = {"/v1/indexes": {"partitions": [partition]}, f"/v1/indexes/{NAME}": partition}
            found = self.path in bodies
            status = 200 if allowed and found else 404 if allowed else 401
            refusal = {"error": {"message": "no such partition" if allowed else "A key is needed."}}
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(bodies[self.path] if status == 200 else refusal).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/"
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_stats_of_a_server_that_runs_come_over_http(world: World, server: str) -> None:
    told = world.parakh("stats", "--url", server, "--key", "pk_good")
    assert told.code == 0, told.err
    assert "7 items · 7 buffered" in told.out
    assert "recall 0.970" in told.out
    (report,) = world.parakh("stats", NAME, "--url", server, "--key", "pk_good", "--json").reports
    assert report["items"] == 7
    told = world.parakh("stats", "--url", server)
    assert told.code == 1
    assert "401: A key is needed." in told.err
    assert world.parakh("stats", "posts.ta.video.visual", "--url", server, "--key", "pk_good").code == 1
    told = world.parakh("stats", "--url", "http://127.0.0.1:9")
    assert told.code == 1
    assert "does not answer" in told.err
    assert world.parakh("stats", "--url", "nonsense").code == 2


# --- tune, verify, snapshot ---


def test_tuning_tells_effort_and_recall_before_and_after_and_keeps_it(world: World) -> None:
    world.build(vectors(3000))
    before = world.stats()["effort"]
    told = world.parakh("tune", NAME, "--recall", "0.5")
    assert told.code == 0, told.err
    assert "recall@10" in told.out
    assert f"{before} ->" in told.out
    assert world.stats()["effort"] < before
    world.parakh("tune", "--all")
    assert world.stats()["effort"] == before


def test_what_is_searched_exactly_needs_no_tuning(world: World) -> None:
    np.save(world.directory / "h.npy", np.random.default_rng(0).integers(0, 256, (50, 32), dtype=np.uint8))
    name = "known-bad.any.image.pdq"
    assert world.parakh("build", name, world.directory / "h.npy", "--encoder", "pdq@1").code == 0
    told = world.parakh("tune", name)
    assert told.code == 0
    assert "exact" in told.out
    assert "1.000 -> 1.000" in told.out


@pytest.mark.parametrize("arguments", [[], [NAME, "--all"], [NAME, "--recall", "1.5"], [NAME, "--recall", "0"]])
def test_tuning_wants_one_partition_or_all_and_a_recall_that_can_be(world: World, arguments: list[str]) -> None:
    world.build(vectors(3))
    assert world.parakh("tune", *arguments).code == 2


def test_verify_finds_repairs_and_gives_up_only_with_consent(world: World) -> None:
    path = table(
        world.directory / "t.parquet",
        id=list(range(600)),
        vector=vectors(600).tolist(),
        attributes=['{"owner": "studio"}'] * 600,
    )
    assert world.parakh("build", NAME, path, "--encoder", "clip@1").code == 0
    told = world.parakh("verify")
    assert told.code == 0
    assert f"{NAME} generation 1 (active): 600 rows, 1 segment" in told.out
    assert "sound" in told.out
    directory = world.root / NAME / "g0001"
    execute(directory, "UPDATE rows SET vector = zeroblob(length(vector)) WHERE id = '7'")
    told = world.parakh("verify", NAME)
    assert told.code == 1
    assert "found row: " in told.out
    told = world.parakh("verify", NAME, "--repair")
    assert told.code == 0, told.out
    assert "repaired row: " in told.out
    assert world.stats()["items"] == 600
    (segment,) = (directory / "segments").iterdir()
    flip(segment / "codes.faiss", 100)
    execute(directory, "UPDATE rows SET attributes = '{\"x\": 1}' WHERE id = '7'")
    assert world.parakh("verify", "--repair").code == 1
    told = world.parakh("verify", "--accept-loss")
    assert told.code == 0, told.out
    assert "to be indexed again: 7" in told.out
    assert world.stats()["items"] == 599


def test_verify_goes_on_past_what_cannot_be_read(world: World) -> None:
    world.build(vectors(3))
    np.save(world.directory / "v.npy", vectors(2))
    assert world.parakh("build", "posts.ta.video.visual", world.directory / "v.npy", "--encoder", "clip@1").code == 0
    (world.root / NAME / "g0001" / "rows.db").write_bytes(b"nonsense" * 1000)
    told = world.parakh("verify")
    assert told.code == 1
    assert f"{NAME} generation 1 (active): " in told.out
    assert "posts.ta.video.visual generation 1 (active): 2 rows" in told.out
    assert "sound" in told.out


def test_a_snapshot_leaves_a_restart_nothing_to_replay(world: World) -> None:
    owner = world.opened()
    owner.upsert(KEY, CLIP, [Item("a", vectors(1)[0])])
    owner.close()
    told = world.parakh("snapshot")
    assert told.code == 0
    assert f"{NAME} generation 1: 1 items" in told.out
    assert list((world.root / NAME / "g0001" / "segments").iterdir())


# --- backup and restore ---


def test_a_backup_comes_back_live_and_can_be_rolled_back(world: World) -> None:
    there = world.directory / "backups"
    world.build(vectors(300))
    told = world.parakh("backup", NAME, str(there))
    assert told.code == 0, told.err
    assert "300 items" in told.out
    world.build(vectors(1, seed=9), ["late"])
    assert world.parakh("backup", NAME, str(there)).code == 0
    listed = world.run("index", "backups", there)
    assert "300" in listed.out
    assert "301" in listed.out
    first = sorted(path.stem for path in (there / "backups").iterdir())[0]
    told = world.parakh("restore", NAME, str(there), "--name", first)
    assert told.code == 0, told.err
    assert "300 items" in told.out
    assert "generation 2" in told.out
    assert world.stats()["items"] == 300
    assert world.parakh("rollback", NAME).code == 0
    assert world.stats()["items"] == 301
    assert world.parakh("retire", NAME).code == 0
    told = world.parakh("backup", NAME, str(there), "--keep", "1")
    assert told.code == 0
    assert len(list((there / "backups").iterdir())) == 1


def test_a_restore_makes_a_partition_and_heals_a_damaged_one(world: World) -> None:
    there = world.directory / "backups"
    world.build(vectors(50))
    assert world.parakh("backup", NAME, str(there)).code == 0
    assert world.parakh("restore", "posts.ta.video.visual", str(there)).code == 0
    (world.root / NAME / "g0001" / "rows.db").write_bytes(b"nonsense" * 1000)
    assert world.parakh("stats").code == 1
    assert world.parakh("restore", NAME, str(there)).code == 0
    reports = world.parakh("stats", "--json").reports
    assert [report["items"] for report in reports] == [50, 50]
    assert [report["damaged"] for report in reports] == [None, None]


def test_a_restore_that_cannot_be_changes_nothing(world: World) -> None:
    there = world.directory / "backups"
    world.build(vectors(50))
    assert world.parakh("backup", NAME, str(there)).code == 0
    assert world.parakh("restore", NAME, str(world.directory / "nowhere")).code == 1
    assert world.parakh("restore", NAME, str(there), "--name", "other").code == 1
    assert world.parakh("restore", "posts.hi.video.pdq", str(there)).code == 2
    assert world.parakh("restore", "posts.hi.vdeo.visual", str(there)).code == 2
    assert world.parakh("backup", NAME, "ftp://somewhere").code == 2
    (rows,) = (there / "rows").iterdir()
    flip(rows, 5000)
    told = world.parakh("restore", NAME, str(there))
    assert told.code == 1
    assert "not what was written" in told.err
    assert [one["number"] for one in world.stats()["generations"]] == [1]
    assert [path.name for path in (world.root / NAME).iterdir()] == ["g0001"]


# --- generations ---


def test_another_encoder_is_built_beside_and_switched_when_nothing_lacks(world: World) -> None:
    ids = [f"p{n}" for n in range(20)]
    world.build(vectors(20), ids)
    assert world.parakh("begin", NAME, "--encoder", "clip@2").code == 2  # of which dimension?
    told = world.parakh("begin", NAME, "--encoder", "clip@2", "--dimension", "8")
    assert told.code == 0, told.err
    assert "generation 2 of clip@2" in told.out
    assert world.parakh("begin", NAME, "--encoder", "clip@3", "--dimension", "8").code == 1
    world.build(vectors(15, seed=2), ids[:15], encoder="clip@2")
    told = world.parakh("switch", NAME)
    assert told.code == 1
    assert "5 items are lacking" in told.err
    assert "  p15" in told.err
    assert "--force" in told.err
    world.build(vectors(20, seed=2), ids, encoder="clip@2")
    told = world.parakh("switch", NAME)
    assert told.code == 0
    assert "nothing is lacking" in told.out
    assert "generation 2 of clip@2 is live" in told.out
    assert [one["state"] for one in world.stats()["generations"]] == ["previous", "active"]
    told = world.parakh("rollback", NAME)
    assert "generation 1 of clip@1 is live" in told.out
    told = world.parakh("retire", NAME)
    assert told.code == 0
    assert "generation 2 is retired" in told.out


def test_a_switch_by_force_says_what_is_lacking(world: World) -> None:
    world.build(vectors(20), [f"p{n}" for n in range(20)])
    assert world.parakh("begin", NAME, "--encoder", "clip@2", "--dimension", "8").code == 0
    told = world.parakh("switch", NAME, "--force")
    assert told.code == 0
    assert "20 items are lacking" in told.out
    assert "and 10 more" in told.out
    assert world.stats()["items"] == 0


def test_a_damaged_live_generation_is_left_by_force_alone(world: World) -> None:
    world.build(vectors(3))
    assert world.parakh("begin", NAME, "--encoder", "clip@2", "--dimension", "8").code == 0
    world.build(vectors(3), encoder="clip@2")
    (world.root / NAME / "g0001" / "rows.db").write_bytes(b"nonsense" * 1000)
    told = world.parakh("switch", NAME)
    assert told.code == 1
    assert "cannot be told what is lacking" in told.err
    assert world.parakh("switch", NAME, "--force").code == 0
    assert world.stats()["items"] == 3


def test_other_index_settings_are_filled_by_a_copy(world: World) -> None:
    world.build(vectors(300))
    config = yaml.safe_load(world.config.read_text())
    similarity = config["applications"][0]["args"]["similarity"]["settings"]
    similarity["overrides"] = [{"partition": NAME, "index": {"index_type": "FLAT"}}]
    world.config.write_text(yaml.safe_dump(config))
    assert world.parakh("copy", NAME).code == 1  # nothing is being built
    told = world.parakh("begin", NAME, "--encoder", "clip@1")
    assert told.code == 0
    assert "(FLAT)" in told.out
    told = world.parakh("copy", NAME)
    assert "300 items copied" in told.out
    world.build(vectors(1, seed=5), ["both"])  # a build goes to both generations of the encoder
    assert [one["items"] for one in world.stats()["generations"]] == [301, 301]
    assert world.parakh("switch", NAME).code == 0
    assert world.stats()["index_type"] == "FLAT"


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["switch", NAME], "no generation that is being built"),
        (["rollback", NAME], "no previous generation"),
        (["retire", NAME], "Say which generation"),
        (["retire", NAME, "1"], "no generation 1 that can be retired"),
        (["begin", NAME, "--encoder", "clip"], "NAME@VERSION"),
    ],
)
def test_generations_that_are_not_there_cannot_be_changed(world: World, command: list[str], complaint: str) -> None:
    world.build(vectors(3))
    told = world.parakh(*command)
    assert told.code in (1, 2)
    assert complaint in told.err
