"""Labelled posts become a table of embeddings that says who made it; a head is trained only on a table that fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.fusion.artefact import TrainedOn
from deployments.fusion.dataset import DatasetError, read_dataset, read_encoders
from deployments.fusion.head import FusionHead
from deployments.runtime.errors import InvalidInput, MissingWeights, NodeUnavailable
from deployments.runtime.values import Modality, TextEmbedding
from serve_app.config import AppConfig
from serve_app.embedding_table import Embedded, embed_posts, holds_raw_posts, read_rows
from serve_app.local_nodes import LocalNodes
from serve_app.training import UNKNOWN_ENCODERS, train_from_table

LABELS = ("safe", "hate", "violence")
FAKES = {
    Modality.VISUAL: TrainedOn(name="fake-visual", version="1", dimension=48),
    Modality.AUDIO: TrainedOn(name="fake-sound", version="1", dimension=128),
    Modality.TEXT: TrainedOn(name="fake-text", version="1", dimension=384),
}


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def posts(n: int = 60, **first: Any) -> list[dict[str, Any]]:
    rows = [
        {"post_id": f"p{i}", "label": LABELS[i % 3], "caption": f"a {LABELS[i % 3]} caption, number {i}"}
        for i in range(n)
    ]
    return [rows[0] | first, *rows[1:]]


async def embedded(config: AppConfig, rows: list[dict[str, Any]], folder: Path) -> tuple[Embedded, Path]:
    target = folder / "embeddings.parquet"
    return await embed_posts(config, jsonl(folder / "posts.jsonl", rows), target), target


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\u0085"])
def test_a_caption_is_not_cut_at_the_line_breaks_of_unicode(tmp_path: Path, inside: str) -> None:
    rows = posts(3, caption=f"one{inside}two")
    assert read_rows(jsonl(tmp_path / "t.jsonl", rows)) == rows


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"post_id": "a"}\n\n[1]\n')
    with pytest.raises(DatasetError, match="line 3 is not a JSON object"):
        read_rows(tmp_path / "t.jsonl")


def test_raw_posts_are_told_from_embeddings_by_the_first_rows_alone(tmp_path: Path) -> None:
    raw, cached = jsonl(tmp_path / "raw.jsonl", posts(12)), tmp_path / "cached.jsonl"
    raw.write_text(raw.read_text() + "this line is never reached\n")
    rows = [{"post_id": "a", "label": "hate", "text": [1.0]}] * 11
    cached.write_text(jsonl(cached, rows).read_text() + "nor is this\n")
    assert holds_raw_posts(raw)
    assert not holds_raw_posts(cached)


def test_a_parquet_table_is_judged_by_its_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pq, "read_table")
    pq.write_table(pa.table({"post_id": ["a"], "caption": ["b"]}), tmp_path / "raw.parquet")
    pq.write_table(pa.table({"post_id": ["a"], "text": [[1.0]]}), tmp_path / "cached.parquet")
    assert holds_raw_posts(tmp_path / "raw.parquet")
    assert not holds_raw_posts(tmp_path / "cached.parquet")
    with pytest.raises(DatasetError, match=r"absent\.parquet"):
        holds_raw_posts(tmp_path / "absent.parquet")


async def test_the_table_names_the_encoders_that_made_it(fake_config: AppConfig, png: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png)
    told, table = await embedded(fake_config, posts(media="a.png"), tmp_path)
    assert told == Embedded(60, {})
    assert read_encoders(table) == {m: FAKES[m] for m in (Modality.VISUAL, Modality.TEXT)}
    assert read_dataset(table).dimensions[Modality.VISUAL] == 48


@pytest.mark.parametrize(
    ("error", "counted"),
    [(NodeUnavailable("gone"), "unavailable"), (RuntimeError("a tensor too far"), "failed")],
)
async def test_one_post_that_an_encoder_fails_on_does_not_cost_the_others(
    fake_config: AppConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, counted: str
) -> None:
    encode_text = LocalNodes.encode_text

    async def failing(nodes: LocalNodes, text: str) -> TextEmbedding:
        if text == "poison":
            raise error
        return await encode_text(nodes, text)

    monkeypatch.setattr(LocalNodes, "encode_text", failing)
    told, table = await embedded(fake_config, posts(caption="poison"), tmp_path)
    assert told == Embedded(59, {counted: 1})
    assert len(pq.read_table(table)) == 59


async def test_a_missing_model_ends_it(fake_config: AppConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def missing(nodes: LocalNodes, text: str) -> TextEmbedding:
        raise MissingWeights("no such model")

    monkeypatch.setattr(LocalNodes, "encode_text", missing)
    with pytest.raises(MissingWeights):
        await embedded(fake_config, posts(), tmp_path)


async def test_a_post_whose_label_shows_only_where_nothing_could_be_embedded_is_left_out(
    fake_config: AppConfig, tmp_path: Path
) -> None:
    told, _ = await embedded(fake_config, posts(label="hate", carriers=["audio"]), tmp_path)
    assert told == Embedded(59, {"missing_carrier": 1})


def test_a_head_for_raw_posts_names_the_configurations_encoders(fake_config: AppConfig, tmp_path: Path) -> None:
    result = train_from_table(fake_config, jsonl(tmp_path / "t.jsonl", posts()), tmp_path / "new", epochs=1)
    assert FusionHead.load(result.directory).details.encoders == FAKES
    assert result.card.note == ""


def cached(path: Path, encoders: dict[str, Any] | None) -> Path:
    """A user's own table of text embeddings."""
    random = np.random.default_rng(0)
    columns = {
        "post_id": pa.array([f"p{i}" for i in range(60)]),
        "label": pa.array([LABELS[i % 3] for i in range(60)]),
        "text": pa.array(list(random.standard_normal((60, 384)).astype(np.float32)), pa.list_(pa.float32())),
    }
    metadata = None if encoders is None else {"parakh.encoders": json.dumps(encoders)}
    pq.write_table(pa.table(columns, metadata=metadata), path)
    return path


def test_a_table_of_unknown_origin_makes_a_head_that_says_so(fake_config: AppConfig, tmp_path: Path) -> None:
    result = train_from_table(fake_config, cached(tmp_path / "t.parquet", None), tmp_path / "new", epochs=1)
    assert result.card.encoders == {}
    assert result.card.note == UNKNOWN_ENCODERS
    assert dict(result.card.dimensions) == {m: e.dimension for m, e in FAKES.items()}  # those the graph will feed it


def test_a_table_of_other_encoders_is_refused_and_nothing_is_written(fake_config: AppConfig, tmp_path: Path) -> None:
    other = FAKES[Modality.TEXT].model_copy(update={"version": "2"}).model_dump()
    with pytest.raises(InvalidInput, match=r"text vectors were made by fake-text 2, but this configuration runs .* 1"):
        train_from_table(fake_config, cached(tmp_path / "t.parquet", {"text": other}), tmp_path / "new", epochs=1)
    assert not (tmp_path / "new").exists()
    same = {"text": FAKES[Modality.TEXT].model_dump()}
    result = train_from_table(fake_config, cached(tmp_path / "t.parquet", same), tmp_path / "new", epochs=1)
    assert result.card.encoders == FAKES


@pytest.mark.parametrize("told", [{"text": 5}, {"smell": {"name": "a", "version": "1", "dimension": 3}}, [1]])
def test_metadata_that_names_no_encoders_is_refused(tmp_path: Path, told: Any) -> None:
    with pytest.raises(DatasetError, match=r"parakh\.encoders"):
        read_encoders(cached(tmp_path / "t.parquet", told))
