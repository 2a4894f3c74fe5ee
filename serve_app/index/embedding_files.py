"""Files of embeddings as rows: a .npy matrix with ids beside it, or a Parquet table.

A file that is none, or lacks a column, is refused when it is opened; a bad row is told by its number, from 1. Nothing
is ever unpickled, and a file may be larger than memory: it is read in batches, as often as it is gone through.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput
from deployments.similarity.uses.entries import OWN
from deployments.similarity.values import Item
from serve_app.contents import primary_subtag

_COLUMNS = ("id", "vector", "created_at", "language", "content_type", "attributes")
_BATCH_BYTES = 16 << 20


@dataclass(frozen=True)
class Defaults:
    """Of what a file does not say."""

    created_at: float  # Unix seconds
    language: str
    content_type: str


@dataclass(frozen=True)
class FileRow:
    """One row: an item, or why there is none."""

    number: int  # from 1
    item: Item | None
    refused: str = ""


class EmbeddingFile(Protocol):
    @property
    def path(self) -> Path: ...

    @property
    def count(self) -> int:
        """Rows."""
        ...

    @property
    def width(self) -> int | None:
        """Entries of a vector, where the file says it."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the operator should know of it."""
        ...

    def rows(self, defaults: Defaults) -> Iterator[list[FileRow]]:
        """In order, in batches of some megabytes."""
        ...


def open_embeddings(path: Path, ids: Path | None = None) -> EmbeddingFile:
    """`ids`: of a .npy file, one a line (.txt) or an array (.npy); else NAME.ids.txt or NAME.ids.npy beside it.

    Raises InvalidInput.
    """
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.")
    if path.suffix == ".npy":
        return NumpyFile(path, ids)
    if path.suffix != ".parquet":
        raise InvalidInput(f"{path}: embeddings come as .npy or .parquet, media as a directory.")
    if ids is not None:
        raise InvalidInput(f"{path}: a Parquet table has its ids in the column `id`.", param="ids")
    return ParquetFile(path)


class NumpyFile:
    """(n, d) numbers; for signatures (n, 32) uint8."""

    def __init__(self, path: Path, ids: Path | None) -> None:
        self.path = path
        self._vectors = _array(path)
        if self._vectors.ndim != 2 or self._vectors.dtype.kind not in "fiu":
            shape = " x ".join(map(str, self._vectors.shape)) or "one number"
            raise InvalidInput(f"{path} holds {self._vectors.dtype} of {shape}, not a matrix of numbers.")
        self.count, self.width = len(self._vectors), int(self._vectors.shape[1])
        _must_hold_rows(path, self.count)
        found = ids or _ids_beside(path)
        self._ids: Sequence[str] | None = None if found is None else _ids(found)
        self.notes = [f"ids from {found}" if found else "ids are the row numbers, from 1"]
        if self._ids is not None and len(self._ids) != self.count:
            raise InvalidInput(f"{found} holds {len(self._ids)} ids, {path} {self.count} vectors.", param="ids")

    def rows(self, defaults: Defaults) -> Iterator[list[FileRow]]:
        step = _batch_rows(self._vectors.dtype.itemsize * self._vectors.shape[1])
        about = (defaults.created_at, defaults.language, defaults.content_type)
        for start in range(0, self.count, step):
            vectors = np.array(self._vectors[start : start + step])
            numbers = range(start + 1, start + len(vectors) + 1)
            ids = map(str, numbers) if self._ids is None else self._ids[start : start + len(vectors)]
            yield [FileRow(n, Item(id_, row, *about)) for n, id_, row in zip(numbers, ids, vectors, strict=True)]


class ParquetFile:
    """Columns id and vector (a list of numbers); created_at (Unix seconds or a timestamp), language, content_type and
    attributes (a JSON object as text, a struct or a map) where they are there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with pq.ParquetFile(path) as file:
                schema, self.count = file.schema_arrow, int(file.metadata.num_rows)
        except (OSError, pa.ArrowException) as error:
            raise InvalidInput(f"{path} cannot be read as a Parquet table ({type(error).__name__}).") from None
        missing = [name for name in ("id", "vector") if name not in schema.names]
        if missing:
            raise InvalidInput(f"{path} has no column {' and no column '.join(missing)}.")
        for name in set(schema.names) & set(_COLUMNS):
            if not _fits(name, schema.field(name).type):
                raise InvalidInput(f"{path}: the column {name} cannot be of type {schema.field(name).type}.")
        _must_hold_rows(path, self.count)
        self._names = [name for name in _COLUMNS if name in schema.names]
        vector = schema.field("vector").type
        self.width = int(vector.list_size) if pa.types.is_fixed_size_list(vector) else None
        ignored = [name for name in schema.names if name not in _COLUMNS]
        self.notes = [f"ignored columns: {', '.join(ignored)}"] if ignored else []

    def rows(self, defaults: Defaults) -> Iterator[list[FileRow]]:
        numbers = itertools.count(1)
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(_batch_rows(4 * (self.width or 1024)), columns=self._names):
                    yield list(_file_rows(batch, numbers, defaults))
        except (OSError, pa.ArrowException) as error:
            raise InvalidInput(
                f"{self.path} cannot be read to its end as a Parquet table ({type(error).__name__})."
            ) from None


def _file_rows(batch: pa.RecordBatch, numbers: Iterator[int], defaults: Defaults) -> Iterator[FileRow]:
    names = batch.schema.names
    size = batch.num_rows
    ids = batch.column("id").to_pylist()
    vectors = _vectors(batch.column("vector"))
    times: Iterable[float | None] = _times(batch.column("created_at")) if "created_at" in names else [None] * size
    languages, types, attributes = (
        batch.column(name).to_pylist() if name in names else [None] * size
        for name in ("language", "content_type", "attributes")
    )
    for id_, vector, at, language, kind, about in zip(ids, vectors, times, languages, types, attributes, strict=True):
        number = next(numbers)
        known = _attributes(about)
        if id_ is None or vector is None or known is None:
            refused = "There is no id." if id_ is None else "There is no vector." if vector is None else _NO_OBJECT
            yield FileRow(number, None, refused)
            continue
        item = Item(
            id=str(id_),
            vector=vector,
            created_at=defaults.created_at if at is None else at,
            language=primary_subtag(language) if language else defaults.language,
            content_type=kind or defaults.content_type,
            attributes=known,
        )
        yield FileRow(number, item)


def _vectors(column: pa.Array) -> Iterator[NDArray[Any] | None]:
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    values = column.flatten().to_numpy(zero_copy_only=False)  # of what is not null
    start = 0
    for length in lengths.tolist():
        yield None if length < 0 else values[start : start + length]
        start += max(0, length)


def _times(column: pa.Array) -> Iterator[float | None]:
    if pa.types.is_timestamp(column.type):
        microseconds = pc.cast(column, pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
        yield from (None if value is None else value / 1e6 for value in microseconds.to_pylist())
    else:
        yield from (None if value is None else float(value) for value in column.to_pylist())


_NO_OBJECT = f"The attributes are not a JSON object, or use the index's own name `{OWN}`."


def _attributes(value: Any) -> dict[str, Any] | None:
    """None where they are none."""
    if value is None:
        return {}
    try:
        parsed = json.loads(value) if isinstance(value, str) else dict(value)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) and OWN not in parsed else None


_IS: Mapping[str, Callable[[Any], bool]] = {
    "id": lambda kind: _is_text(kind) or pa.types.is_integer(kind),
    "vector": lambda kind: _is_list(kind) and (pa.types.is_floating(kind.value_type) or _is_whole(kind.value_type)),
    "created_at": lambda kind: pa.types.is_timestamp(kind) or pa.types.is_floating(kind) or _is_whole(kind),
    "language": lambda kind: _is_text(kind) or pa.types.is_null(kind),
    "content_type": lambda kind: _is_text(kind) or pa.types.is_null(kind),
    "attributes": lambda kind: _is_text(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind),
}


def _fits(name: str, kind: Any) -> bool:
    return _IS[name](kind)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_whole(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _array(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        array = None
    if not isinstance(array, np.ndarray):
        raise InvalidInput(f"{path} is not a .npy array of numbers or text; pickled objects are never read.")
    return array


def _ids_beside(path: Path) -> Path | None:
    beside = [path.with_suffix(suffix) for suffix in (".ids.txt", ".ids.npy")]
    found = [candidate for candidate in beside if candidate.is_file()]
    if len(found) > 1:
        raise InvalidInput(f"Both {found[0]} and {found[1]} are there: say which with --ids.", param="ids")
    return found[0] if found else None


def _ids(path: Path) -> Sequence[str]:
    if path.suffix == ".npy":
        array = _array(path)
        if array.ndim != 1 or array.dtype.kind not in "Uiu":
            raise InvalidInput(f"{path} is not a list of ids: {array.dtype}, {array.ndim} dimensions.", param="ids")
        return [str(id_) for id_ in array.tolist()]
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as ids, one a line ({type(error).__name__}).", param="ids") from None
    lines = text.split("\n")  # and nothing else that might end a line: ids are Unicode
    return [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]


def _must_hold_rows(path: Path, count: int) -> None:
    if not count:
        raise InvalidInput(f"{path} holds no rows.")


def _batch_rows(row_bytes: int) -> int:
    return max(64, min(8192, _BATCH_BYTES // max(1, row_bytes)))
