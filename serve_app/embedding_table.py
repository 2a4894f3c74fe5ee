"""A table of labelled raw posts in, a table of cached embeddings out: the first half of `parakh train-fusion`.

Posts: Parquet or JSONL with the columns post_id, label, and caption and/or media (a path, relative to the table);
author_id, language, split and carriers pass through. A post that cannot be judged is left out and counted by reason.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deployments.fusion.artefact import TrainedOn
from deployments.fusion.dataset import DatasetError, encoders_metadata
from deployments.runtime.errors import InvalidInput, ModelError, ParakhError
from deployments.runtime.values import Modality, ModelCard
from serve_app.config import AppConfig
from serve_app.local_nodes import LocalNodes
from serve_app.posts import MediaSource

logger = logging.getLogger(__name__)

PASSED_THROUGH = ("post_id", "label", "author_id", "language", "split", "carriers")
EMBEDDED_COLUMNS = ("visual", "audio", "text", "frames")
_VECTOR = pa.list_(pa.float32())
_LOOKED_AT = 10  # rows of JSONL: one may have no embedding by mistake, ten will not


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
        return list(_json_rows(path))
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read as a table ({type(error).__name__}).") from None


def holds_raw_posts(path: Path) -> bool:
    """True for posts still to be embedded, False for a table of embeddings.

    Looks at the schema or at the first lines only: a cache of embeddings may be larger than memory as Python objects.
    Raises DatasetError.
    """
    try:
        if path.suffix == ".parquet":
            names = set(pq.read_schema(path).names)
        else:
            names = {name for row in islice(_json_rows(path), _LOOKED_AT) for name in row}
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read as a table ({type(error).__name__}).") from None
    return not names & set(EMBEDDED_COLUMNS)


def trained_on(cards: Mapping[Modality, ModelCard]) -> dict[Modality, TrainedOn]:
    """What a table or a head's card says of the encoders behind it."""
    return {m: TrainedOn(name=c.name, version=c.version, dimension=c.dimension) for m, c in cards.items()}


async def embed_posts(
    config: AppConfig, source: Path, target: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Embedded:
    """Write `target` (Parquet, the columns of deployments/fusion/dataset.py); its metadata names the encoders.

    A post that an encoder fails on is left out like one that cannot be decoded.

    Raises DatasetError where a row has no post_id, label, caption or media; ModelError where a model is missing.
    """
    rows = read_rows(source)
    nodes = LocalNodes(config)
    left_out: Counter[str] = Counter()
    done: list[dict[str, Any]] = []
    cards: dict[Modality, ModelCard] = {}
    try:
        for number, row in enumerate(rows, 1):
            _check(source, number, row)
            try:
                done.append(await _embedded(nodes, row, source.parent, cards))
            except ModelError:  # every other post would fail too
                raise
            except ParakhError as error:
                left_out[error.code] += 1
            except RuntimeError:  # torch's and OpenVINO's own errors: one poisoned post must not cost the others
                logger.exception("%s: row %d could not be embedded", source, number)
                left_out["failed"] += 1
            progress(number, len(rows))
    finally:
        await nodes.close()
    if not done:
        raise DatasetError(f"{source}: no post could be embedded ({dict(left_out)}).")
    schema = _schema(done).with_metadata(encoders_metadata(trained_on(cards)))
    pq.write_table(pa.Table.from_pylist(done, schema=schema), target)
    return Embedded(len(done), dict(left_out))


async def _embedded(
    nodes: LocalNodes, row: Mapping[str, Any], folder: Path, cards: dict[Modality, ModelCard]
) -> dict[str, Any]:
    """The table's row; `cards` takes up the cards of the encoders that made it."""
    result: dict[str, Any] = {name: row.get(name) for name in PASSED_THROUGH if row.get(name) is not None}
    if row.get("media"):
        decoded = await nodes.decode(MediaSource(data=await asyncio.to_thread(_read_media, folder / row["media"])))
        if decoded.frames is not None:
            frames = await nodes.encode_frames(decoded.frames)
            result["frames"] = [vector.tolist() for vector in frames.vectors]
            _note(cards, Modality.VISUAL, frames.model)
        if decoded.sound is not None:
            sound = await nodes.encode_sound(decoded.sound, decoded.media.sound_blocks)
            result["audio"] = np.mean(sound.vectors, axis=0).tolist()
            _note(cards, Modality.AUDIO, sound.model)
    if (row.get("caption") or "").strip():
        text = await nodes.encode_text(row["caption"])
        result["text"] = text.vector.tolist()
        _note(cards, Modality.TEXT, text.model)
    if not result.keys() & {"frames", "audio", "text"}:
        raise InvalidInput("The post holds nothing to judge.")
    _check_carriers(result)
    return result


def _note(cards: dict[Modality, ModelCard], modality: Modality, card: ModelCard | None) -> None:
    if card is not None:
        cards[modality] = card


def _check_carriers(row: Mapping[str, Any]) -> None:
    """A post whose label shows only where it could not be embedded would teach that the rest of it is unsafe."""
    has = {"visual" if name == "frames" else name for name in row}
    carriers = row.get("carriers")
    if isinstance(carriers, list) and carriers and not has & set(map(str, carriers)):
        raise MissingCarrier("No modality that carries the label could be embedded.")


def _read_media(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise MissingMedia(f"{path} cannot be read.") from None


class MissingMedia(InvalidInput):
    code = "missing_media"


class MissingCarrier(InvalidInput):
    code = "missing_carrier"


def _check(source: Path, number: int, row: Mapping[str, Any]) -> None:
    for name in ("post_id", "label"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise DatasetError(f"{source}: row {number}: {name} is missing.")
    if not row.get("media") and not row.get("caption"):
        raise DatasetError(f"{source}: row {number}: there is neither media nor a caption.")


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Lines end at a line feed alone: `str.splitlines` would also cut captions at U+2028 and its like."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _json_row(path, number, line)


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
