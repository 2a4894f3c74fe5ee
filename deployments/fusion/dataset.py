"""A labelled table of cached embeddings, read whole and checked before any training starts.

Parquet, or JSONL with one object per line. Columns:
  post_id    string, unique
  label      one of the seven categories
  visual     list of numbers or null: mean over the post's frames, raw or normalised
  audio      the same for its sound;  text: the same for its text
  frames     optional, list of lists or null: the single frames; where `visual` is null, their mean is taken
  author_id  optional: posts of one author never stand on both sides of the split
  split      optional: train, calibrate or heldout, instead of the split by hash
  language   optional BCP-47 tag: the report then has a row per language
  carriers   optional list of modalities that show the label (null: unknown). A post whose carriers are all left out
             counts as `safe`, in training with modality dropout and in the report's subsets; an unsafe post needs one
             that it has.
A Parquet file's metadata may say under `parakh.encoders` (JSON) which encoders made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from deployments.fusion.artefact import TrainedOn
from deployments.fusion.features import MODALITIES, Floats, unit
from deployments.policy.policy import CATEGORIES
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import Modality

TRAIN, CALIBRATE, HELDOUT = SPLITS = ("train", "calibrate", "heldout")
REQUIRED = ("post_id", "label")
OPTIONAL = ("frames", "author_id", "split", "language", "carriers")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
ENCODERS_KEY = b"parakh.encoders"
Bools = NDArray[np.bool_]


class DatasetError(InvalidInput):
    """The table cannot be trained on: the message names the file, the row and the column."""

    code = "invalid_dataset"


@dataclass(frozen=True)
class Dataset:
    """n posts. A missing modality is a row of zeros where `present` is false."""

    post_ids: list[str]
    labels: NDArray[np.intp]  # (n,) index into CATEGORIES
    vectors: Mapping[Modality, Floats]  # each (n, dimension), L2-normalised
    present: Bools  # (n, 3) in the order of MODALITIES
    carriers: Bools  # (n, 3): which modalities show the label; all true where unknown
    splits: NDArray[np.str_]  # (n,)
    languages: list[str | None]
    frames: list[Floats | None]  # (frames, dimension) raw
    sha256: str  # of the file

    @property
    def dimensions(self) -> dict[Modality, int]:
        return {m: self.vectors[m].shape[1] for m in MODALITIES}

    def labels_under(self, kept: Bools) -> NDArray[np.intp]:
        """The label that is left when only the modalities `kept` (n, 3) are looked at."""
        shown = (kept & self.carriers).any(axis=1)
        return np.where(shown, self.labels, 0)


def read_dataset(
    path: Path,
    dimensions: Mapping[Modality, int] | None = None,
    heldout_fraction: float = 0.2,
    calibrate_fraction: float = 0.15,
) -> Dataset:
    """`dimensions`: what the encoders give; where None, each is taken from the first vector of its column.

    Raises DatasetError.
    """
    rows = _Rows(path)
    labels = rows.labels()
    frames = rows.frames()
    columns = {m: rows.vectors(m, dimensions[m] if dimensions else None) for m in MODALITIES}
    columns[Modality.VISUAL] = _with_frames(rows, columns[Modality.VISUAL], frames, dimensions)
    present = np.stack([columns[m][1] for m in MODALITIES], axis=1)
    if not present.any(axis=1).all():
        rows.fail(int(np.argmin(present.any(axis=1))), "has no embedding at all")
    return Dataset(
        post_ids=rows.strings("post_id"),
        labels=labels,
        vectors={m: unit(columns[m][0]) for m in MODALITIES},
        present=present,
        carriers=rows.carriers(present, labels),
        splits=rows.splits(heldout_fraction, calibrate_fraction),
        languages=rows.texts("language"),
        frames=frames,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def encoders_metadata(encoders: Mapping[Modality, TrainedOn]) -> dict[bytes, bytes]:
    """For a Parquet file's schema: which encoders made its vectors."""
    return {ENCODERS_KEY: json.dumps({m.value: e.model_dump() for m, e in encoders.items()}).encode()}


def read_encoders(path: Path) -> dict[Modality, TrainedOn]:
    """Which encoders made the table; empty where it does not say. Raises DatasetError."""
    if path.suffix in JSON_SUFFIXES:
        return {}
    told = (_parquet_schema(path).metadata or {}).get(ENCODERS_KEY)
    try:
        return {Modality(m): TrainedOn.model_validate(e) for m, e in json.loads(told or "{}").items()}
    except (ValueError, AttributeError):
        raise DatasetError(f"{path}: its metadata {ENCODERS_KEY.decode()!r} does not name encoders.") from None


class _Rows:
    """The raw columns of one file, with errors that say where."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns = _read_columns(path)
        for name in REQUIRED:
            if name not in self._columns:
                raise DatasetError(f"{path} has no column {name!r}.")
        if not any(m.value in self._columns for m in MODALITIES) and "frames" not in self._columns:
            raise DatasetError(f"{path} has none of the columns visual, audio, text and frames.")
        self.n = len(self._columns["post_id"])
        if self.n == 0:
            raise DatasetError(f"{path} holds no posts.")

    def fail(self, row: int, what: str) -> NoReturn:
        raise DatasetError(f"{self.path}, row {row + 1} (post {self._columns['post_id'][row]}): {what}.")

    def column(self, name: str) -> list[Any]:
        return list(self._columns.get(name) or [None] * self.n)

    def strings(self, name: str) -> list[str]:
        values = self.column(name)
        for row, value in enumerate(values):
            if not isinstance(value, str) or not value:
                self.fail(row, f"{name} must be a string that is not empty")
        if len(set(values)) < self.n:
            repeated = next(v for v in values if values.count(v) > 1)
            raise DatasetError(f"{self.path}: {name} {repeated!r} stands there more than once.")
        return values

    def texts(self, name: str) -> list[str | None]:
        values = self.column(name)
        for row, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                self.fail(row, f"{name} must be a string or null, not {value!r}")
        return values

    def labels(self) -> NDArray[np.intp]:
        values = self.column("label")
        for row, value in enumerate(values):
            if not isinstance(value, str) or value not in CATEGORIES:
                self.fail(row, f"unknown label {value!r}; known are {', '.join(CATEGORIES)}")
        if len(set(values)) < 2:
            raise DatasetError(f"{self.path}: every post is labelled {values[0]!r}; training needs two categories.")
        return np.array([CATEGORIES.index(value) for value in values], dtype=np.intp)

    def vectors(self, modality: Modality, wanted: int | None) -> tuple[Floats, Bools]:
        """((n, dimension) raw, zeros where null; (n,) present)."""
        values = self.column(modality.value)
        present = np.array([value is not None for value in values], dtype=bool)
        if wanted is None:
            first = int(np.argmax(present))
            wanted = len(self._numbers(first, modality.value, values[first])) if present.any() else 1
        matrix = np.zeros((self.n, wanted), dtype=np.float32)
        for row in np.flatnonzero(present):
            matrix[row] = self._vector(int(row), modality.value, values[row], wanted)
        return matrix, present

    def _vector(self, row: int, name: str, value: Any, wanted: int) -> Floats:
        vector = self._numbers(row, name, value)
        if len(vector) != wanted:
            self.fail(row, f"{name} has dimension {len(vector)}, wanted {wanted}")
        return vector

    def _numbers(self, row: int, name: str, value: Any) -> Floats:
        try:
            with np.errstate(over="ignore"):  # too large becomes infinite, which is refused below
                vector = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError):
            vector = np.empty((0, 0), dtype=np.float32)
        if vector.ndim != 1 or len(vector) == 0:
            self.fail(row, f"{name} must be a list of numbers" + (", or null" if vector.ndim == 1 else ""))
        if not np.isfinite(vector).all():
            self.fail(row, f"{name} holds a number that is not finite")
        return vector

    def frames(self) -> list[Floats | None]:
        result: list[Floats | None] = []
        for row, value in enumerate(self.column("frames")):
            if value is not None and not isinstance(value, list):
                self.fail(row, "frames must be a list of lists of numbers")
            if not value:
                result.append(None)
                continue
            wanted = len(self._numbers(row, "frames", value[0]))
            result.append(np.stack([self._vector(row, "frames", frame, wanted) for frame in value]))
        return result

    def carriers(self, present: Bools, labels: NDArray[np.intp]) -> Bools:
        result = np.ones_like(present)
        for row, value in enumerate(self.column("carriers")):
            if value is None:
                continue
            names = [m.value for m in MODALITIES]
            if not isinstance(value, list) or any(name not in names for name in value):
                self.fail(row, f"carriers must be a list of {', '.join(names)}, or null")
            result[row] = [name in value for name in names]
            if labels[row] and not (result[row] & present[row]).any():
                self.fail(row, f"carriers name no modality of this {CATEGORIES[labels[row]]} post; null means unknown")
        return result

    def splits(self, heldout: float, calibrate: float) -> NDArray[np.str_]:
        given = self.column("split")
        authors = self.column("author_id")
        for row, author in enumerate(authors):
            if author is not None and not isinstance(author, str | int):
                self.fail(row, "author_id must be a string, a whole number or null")
        result = []
        for row, (split, author, post) in enumerate(zip(given, authors, self.column("post_id"), strict=True)):
            if split is not None and (not isinstance(split, str) or split not in SPLITS):
                self.fail(row, f"split {split!r} is not one of {', '.join(SPLITS)}")
            result.append(split or split_of(str(post if author in (None, "") else author), heldout, calibrate))
        counted = np.array(result)
        for name in SPLITS:
            if not (counted == name).any():
                raise DatasetError(f"{self.path}: no post falls into the {name} part; the table is too small.")
        return counted


def split_of(key: str, heldout: float, calibrate: float) -> str:
    """The part an author (or a post without one) belongs to: the same in every run and on every machine."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if place < heldout:
        return HELDOUT
    return CALIBRATE if place < heldout + calibrate else TRAIN


def _with_frames(
    rows: _Rows,
    visual: tuple[Floats, Bools],
    frames: Sequence[Floats | None],
    dimensions: Mapping[Modality, int] | None,
) -> tuple[Floats, Bools]:
    width = next((f.shape[1] for f in frames if f is not None), None)
    if width is None:
        return visual
    matrix, present = visual
    wanted = matrix.shape[1] if present.any() or dimensions else width
    for row, vectors in enumerate(frames):
        if vectors is not None and vectors.shape[1] != wanted:
            rows.fail(row, f"frames have dimension {vectors.shape[1]}, wanted {wanted}")
    matrix = matrix if matrix.shape[1] == wanted else np.zeros((len(frames), wanted), dtype=np.float32)
    for row, vectors in enumerate(frames):
        if vectors is not None and not present[row]:
            matrix[row], present[row] = vectors.mean(axis=0), True
    return matrix, present


def _read_columns(path: Path) -> dict[str, Sequence[Any]]:
    if not path.is_file():
        raise DatasetError(f"{path} is not a file.")
    if path.suffix in JSON_SUFFIXES:
        return _read_jsonl(path)
    return _read_parquet(path)


def _read_parquet(path: Path) -> dict[str, Sequence[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = set(_parquet_schema(path).names)
    try:
        wanted = [n for n in (*REQUIRED, *(m.value for m in MODALITIES), *OPTIONAL) if n in names]
        table = pq.read_table(path, columns=wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):
        raise DatasetError(f"{path} is not a Parquet file.") from None
    return {name: _arrow_values(table.column(name)) for name in table.column_names}


def _parquet_schema(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError):
        raise DatasetError(f"{path} is not a Parquet file.") from None


def _arrow_values(column: Any) -> list[Any]:
    """Lists of numbers as numpy rows (no Python float per number), everything else as plain Python values."""
    import pyarrow as pa

    listed = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if listed and pa.types.is_floating(column.type.value_type):
        return [
            None if row is None or not row.is_valid else row.values.to_numpy(zero_copy_only=False) for row in column
        ]
    values: list[Any] = column.to_pylist()
    return values


def _read_jsonl(path: Path) -> dict[str, Sequence[Any]]:
    rows = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                raise DatasetError(f"{path}, line {number}: is not JSON.") from None
            if not isinstance(row, dict):
                raise DatasetError(f"{path}, line {number}: is not a JSON object.")
            rows.append(row)
    if not rows:
        raise DatasetError(f"{path} holds no posts.")
    names = {name for row in rows for name in row}
    return {name: [row.get(name) for row in rows] for name in names}
