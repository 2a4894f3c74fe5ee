"""A table of labelled raw posts in, a table of cached embeddings out: the first half of `parakh train-fusion`.

Posts: Parquet or JSONL with the columns post_id, label, and caption and/or media (a path, relative to the table);
author_id, language, split and carriers pass through. A post that cannot be judged is left out and counted by reason.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deployments.fusion.dataset import DatasetError
from deployments.runtime.errors import InvalidInput
from serve_app.config import AppConfig
from serve_app.local_nodes import LocalNodes
from serve_app.posts import MediaSource

PASSED_THROUGH = ("post_id", "label", "author_id", "language", "split", "carriers")
RAW_COLUMNS = ("caption", "media")
EMBEDDED_COLUMNS = ("visual", "audio", "text", "frames")
_VECTOR = pa.list_(pa.float32())


@dataclass(frozen=True)
class Embedded:
    """How many posts became rows, and why the others did not."""

    rows: int
    left_out: Mapping[str, int]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a Parquet or JSONL table. Raises DatasetError naming file and line."""
    try:
        if path.suffix == ".parquet":
            rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
            return rows
        return [
            _json_row(path, n, line) for n, line in enumerate(path.read_text("utf-8").splitlines(), 1) if line.strip()
        ]
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read as a table ({type(error).__name__}).") from None


def holds_raw_posts(rows: list[dict[str, Any]]) -> bool:
    """True for posts still to be embedded, False for a table of embeddings."""
    columns = {name for row in rows for name in row}
    return bool(columns & set(RAW_COLUMNS)) and not columns & set(EMBEDDED_COLUMNS)


async def embed_posts(
    config: AppConfig, source: Path, target: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Embedded:
    """Write `target` (Parquet, the columns of deployments/fusion/dataset.py).

    Raises DatasetError where a row has no post_id, label, caption or media; ModelError where a model is missing.
    """
    rows = read_rows(source)
    nodes = LocalNodes(config)
    left_out: Counter[str] = Counter()
    done: list[dict[str, Any]] = []
    try:
        for number, row in enumerate(rows, 1):
            _check(source, number, row)
            try:
                done.append(await _embedded(nodes, row, source.parent))
            except InvalidInput as error:
                left_out[error.code] += 1
            progress(number, len(rows))
    finally:
        await nodes.close()
    if not done:
        raise DatasetError(f"{source}: no post could be embedded ({dict(left_out)}).")
    pq.write_table(pa.Table.from_pylist(done, schema=_schema(done)), target)
    return Embedded(len(done), dict(left_out))


async def _embedded(nodes: LocalNodes, row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {name: row.get(name) for name in PASSED_THROUGH if row.get(name) is not None}
    if row.get("media"):
        decoded = await nodes.decode(MediaSource(data=await asyncio.to_thread(_read_media, folder / row["media"])))
        if decoded.frames is not None:
            frames = (await nodes.encode_frames(decoded.frames)).vectors
            result["frames"] = [vector.tolist() for vector in frames]
        if decoded.sound is not None:
            sound = await nodes.encode_sound(decoded.sound, decoded.media.sound_blocks)
            result["audio"] = np.mean(sound.vectors, axis=0).tolist()
    if (row.get("caption") or "").strip():
        result["text"] = (await nodes.encode_text(row["caption"])).vector.tolist()
    if not result.keys() & {"frames", "audio", "text"}:
        raise InvalidInput("The post holds nothing to judge.")
    return result


def _read_media(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise MissingMedia(f"{path} cannot be read.") from None


class MissingMedia(InvalidInput):
    code = "missing_media"


def _check(source: Path, number: int, row: Mapping[str, Any]) -> None:
    for name in ("post_id", "label"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise DatasetError(f"{source}: row {number}: {name} is missing.")
    if not row.get("media") and not row.get("caption"):
        raise DatasetError(f"{source}: row {number}: there is neither media nor a caption.")


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        row = None
    if not isinstance(row, dict):
        raise DatasetError(f"{path}: line {number} is not a JSON object.")
    return row


def _schema(rows: list[dict[str, Any]]) -> pa.Schema:
    types = {"audio": _VECTOR, "text": _VECTOR, "frames": pa.list_(_VECTOR), "carriers": pa.list_(pa.string())}
    names = [*PASSED_THROUGH, "frames", "visual", "audio", "text"]
    present = {name for row in rows for name in row} | {"visual", "audio", "text"}
    return pa.schema(
        [(name, types.get(name, _VECTOR if name == "visual" else pa.string())) for name in names if name in present]
    )
