"""A table is trained on whole or refused with its file, its row and what is wrong there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.fusion.dataset import SPLITS, DatasetError, read_dataset, split_of
from deployments.fusion.features import MODALITIES
from deployments.fusion.train import TrainSettings, train_fusion
from deployments.runtime.values import Modality
from tests.fusion.separable import DIMENSIONS, row

Rows = list[dict[str, Any]]


def rows(n: int = 120) -> Rows:
    rng = np.random.default_rng(0)
    return [row(i, rng) for i in range(n)]


def jsonl(path: Path, content: Rows) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in content))
    return path


def changed(**values: Any) -> Callable[[Rows], Rows]:
    return lambda content: [*content[:7], content[7] | values, *content[8:]]


def without(name: str) -> Callable[[Rows], Rows]:
    return lambda content: [{k: v for k, v in r.items() if k != name} for r in content]


DAMAGES: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "unknown label": (changed(label="rude"), r"row 8 \(post p7\): unknown label 'rude'"),
    "no label": (changed(label=None), "row 8 .*unknown label None"),
    "wrong dimension": (changed(text=[1.0, 2.0]), r"row 8 .*text has dimension 2, wanted 32"),
    "nan": (changed(audio=[float("nan")] * 32), "row 8 .*audio holds a number that is not finite"),
    "too large for a float": (changed(audio=[1e300] * 32), "row 8 .*not finite"),
    "words": (changed(audio=["loud"] * 32), "row 8 .*audio must be a list of numbers"),
    "nested": (changed(audio=[[1.0]] * 32), "row 8 .*audio must be a list of numbers"),
    "a number": (changed(visual=3.0), "row 8 .*visual must be a list of numbers"),
    "no modality": (changed(visual=None, audio=None, text=None), "row 8 .*no embedding at all"),
    "no id": (changed(post_id=""), "row 8 .*post_id must be a string"),
    "same id": (changed(post_id="p3"), "post_id 'p3' stands there more than once"),
    "unknown split": (changed(split="test"), "row 8 .*split 'test'"),
    "unknown carrier": (changed(carriers=["smell"]), "row 8 .*carriers must be a list of visual"),
    "carriers are a number": (changed(carriers=5), "row 8 .*carriers must be a list of visual"),
    "carriers are a word": (changed(carriers="text"), "row 8 .*carriers must be a list of visual"),
    "unsafe but shown nowhere": (changed(label="hate", carriers=[]), "row 8 .*no modality of this hate post"),
    "shown where nothing is": (
        changed(label="hate", carriers=["audio"], audio=None, text=[1.0] * 32),
        "row 8 .*no modality of this hate post",
    ),
    "first cell is a number": (lambda c: [c[0] | {"visual": 5}, *c[1:]], "row 1 .*visual must be a list of numbers"),
    "first cell is empty": (lambda c: [c[0] | {"visual": []}, *c[1:]], "row 1 .*visual must be a list of numbers, or"),
    "frames are a number": (changed(frames=5), "row 8 .*frames must be a list of lists of numbers"),
    "a frame is a number": (changed(frames=[5]), "row 8 .*frames must be a list of numbers"),
    "frames of another width": (changed(frames=[[1.0, 2.0]]), "row 8 .*frames have dimension 2, wanted 48"),
    "label is a list": (changed(label=["hate"]), "row 8 .*unknown label"),
    "language is a number": (changed(language=5), "row 8 .*language must be a string or null"),
    "author is a list": (changed(author_id=[1]), "row 8 .*author_id must be a string"),
    "split is a list": (changed(split=["train"]), "row 8 .*split"),
    "one category": (lambda c: [r | {"label": "hate"} for r in c], "every post is labelled 'hate'"),
    "missing label column": (without("label"), "no column 'label'"),
    "missing id column": (without("post_id"), "no column 'post_id'"),
    "no embeddings": (lambda c: [{"post_id": r["post_id"], "label": r["label"]} for r in c], "none of the columns"),
    "no posts": (lambda _: [], "holds no posts"),
    "too small": (lambda c: c[:3], "too small"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_refused_and_nothing_is_written(tmp_path: Path, damage: str) -> None:
    edit, message = DAMAGES[damage]
    table = jsonl(tmp_path / "table.jsonl", edit(rows()))
    with pytest.raises(DatasetError, match=message) as caught:
        train_fusion(table, TrainSettings(output=tmp_path / "head", epochs=1))
    assert str(table) in str(caught.value)
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", b"PAR1 not really", "not a Parquet file"),
        ("t.parquet", b"", "not a Parquet file"),
        ("t.jsonl", b'{"post_id": "a"}\n{"post_id": \n', "line 2: is not JSON"),
        ("t.jsonl", b"[1]\n", "line 1: is not a JSON object"),
        ("t.jsonl", b"\n\n", "no posts"),
        ("t.jsonl", b"\xff\xfe\x00", "line 1: is not JSON"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a file"):
        read_dataset(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize("number", [pa.float32(), pa.float64(), pa.float16()])
def test_parquet_and_jsonl_give_the_same_posts(tmp_path: Path, number: pa.DataType) -> None:
    content = rows()
    by_json = read_dataset(jsonl(tmp_path / "t.jsonl", content))
    columns = {key: [r[key] for r in content] for key in content[0]}
    typed = {
        m.value: pa.array(
            [None if v is None else np.asarray(v, number.to_pandas_dtype()) for v in columns[m]], pa.list_(number)
        )
        for m in MODALITIES
    }
    pq.write_table(pa.table(columns | typed), tmp_path / "t.parquet")
    by_parquet = read_dataset(tmp_path / "t.parquet")
    assert by_parquet.post_ids == by_json.post_ids
    assert (by_parquet.splits == by_json.splits).all()
    assert (by_parquet.present == by_json.present).all()
    assert (by_parquet.carriers == by_json.carriers).all()
    for modality in MODALITIES:
        np.testing.assert_allclose(by_parquet.vectors[modality], by_json.vectors[modality], atol=1e-3)
    assert by_parquet.dimensions == DIMENSIONS


def test_vectors_are_normalised_and_missing_ones_are_zero(tmp_path: Path) -> None:
    data = read_dataset(jsonl(tmp_path / "t.jsonl", rows()))
    for bit, modality in enumerate(MODALITIES):
        lengths = np.linalg.norm(data.vectors[modality], axis=1)
        np.testing.assert_allclose(lengths, data.present[:, bit], atol=1e-5)


def test_frames_stand_in_for_a_missing_visual_vector(tmp_path: Path) -> None:
    frames = np.random.default_rng(1).standard_normal((3, 48)).tolist()
    content = [r | {"visual": None, "frames": frames} for r in rows()]
    data = read_dataset(jsonl(tmp_path / "t.jsonl", content))
    wanted = np.mean(frames, axis=0) / np.linalg.norm(np.mean(frames, axis=0))
    np.testing.assert_allclose(data.vectors[Modality.VISUAL][5], wanted, atol=1e-5)
    assert data.present[:, 0].all()


def test_posts_of_one_author_stand_on_one_side_of_the_split(tmp_path: Path) -> None:
    content = rows()
    data = read_dataset(jsonl(tmp_path / "t.jsonl", content))
    sides: dict[str, set[str]] = {}
    for given, split in zip(content, data.splits, strict=True):
        sides.setdefault(given["author_id"], set()).add(str(split))
    assert all(len(side) == 1 for side in sides.values())
    assert set(data.splits) == set(SPLITS)


def test_the_split_follows_its_fractions_and_never_changes() -> None:
    parts = [split_of(f"author-{i}", 0.2, 0.15) for i in range(4000)]
    assert parts.count("heldout") / 4000 == pytest.approx(0.2, abs=0.02)
    assert parts.count("calibrate") / 4000 == pytest.approx(0.15, abs=0.02)
    assert parts[:6] == ["train", "train", "heldout", "calibrate", "train", "train"]


def test_a_post_whose_carriers_are_left_out_counts_as_safe(tmp_path: Path) -> None:
    content = [r | {"carriers": ["text"], "text": [1.0] * 32} for r in rows()]
    data = read_dataset(jsonl(tmp_path / "t.jsonl", content))
    only_visual = np.tile([True, False, False], (len(content), 1))
    assert (data.labels_under(only_visual) == 0).all()
    assert (data.labels_under(data.present) == data.labels).all()
