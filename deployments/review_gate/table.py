"""The table of decisions that everything is calibrated on: read from Parquet or CSV, checked whole before it is used.

One row is one post at one milestone that a person judged. Columns:
  post_id, author_id      strings; (post_id, milestone) is unique
  language                BCP-47 tag or null
  content_type            video, image, gif, audio or text
  created_at, reached_at  of the post, and of its milestone: with a time zone, not in the future
  milestone, views        whole numbers
  score                   0..1, what is held against the threshold
  outcome                 true: the person found it bad
  weight                  optional, inverse probability that such a post was judged; 1 where missing. Posts that were
                          reviewed because of their score count 1, a random sample of one in fifty skipped ones 50
  nudity ... dangerous    optional category scores, 0..1 or null
  author_posts, author_discards   optional, in the window before reached_at; null where not known

Only rows drawn with a known probability say anything of recall: posts that were skipped and never sampled are missing
here, and a table without them claims a recall that nobody has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from deployments.policy.policy import UNSAFE
from deployments.review_gate.columns import Columns, TableError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Times = NDArray[np.datetime64]

REQUIRED = (
    "post_id",
    "author_id",
    "language",
    "content_type",
    "created_at",
    "reached_at",
    "milestone",
    "views",
    "score",
    "outcome",
)
OPTIONAL = ("weight", *UNSAFE, "author_posts", "author_discards")
CLOCK_SKEW = timedelta(minutes=1)


@dataclass(frozen=True, eq=False)
class Labels:
    """n strings as codes into their sorted names: the same names, in whatever order rows come."""

    names: tuple[str, ...]
    codes: NDArray[np.int64]  # (n,)

    def values(self) -> NDArray[Any]:
        return np.array(self.names, dtype=object)[self.codes]


@dataclass(frozen=True, eq=False)
class DecisionTable:
    """n judged rows; every array has length n. Times are UTC without a zone, as numpy keeps them."""

    post_ids: NDArray[Any]
    authors: Labels
    languages: Labels  # "" where null
    content_types: Labels
    created_at: Times  # datetime64[us]
    reached_at: Times
    milestones: NDArray[np.int64]
    views: NDArray[np.int64]
    scores: Floats
    outcomes: Bools
    weights: Floats
    category_scores: Mapping[str, Floats]  # only columns that are there; NaN where null
    author_posts: Floats | None  # NaN where null
    author_discards: Floats | None
    sha256: str  # of the file, or of the columns of a table that was never one

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: NDArray[Any]) -> DecisionTable:
        """The rows of a mask or of indices. Names of labels and the hash stay those of the whole."""
        changed: dict[str, Any] = {
            name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        for name in ("authors", "languages", "content_types"):
            labels = getattr(self, name)
            changed[name] = Labels(labels.names, labels.codes[rows])
        changed["category_scores"] = {name: values[rows] for name, values in self.category_scores.items()}
        return replace(self, **changed)

    def with_scores(self, scores: Floats) -> DecisionTable:
        """The same decisions under another model's scores, (n,) in 0..1."""
        if scores.shape != self.scores.shape or not ((scores >= 0) & (scores <= 1)).all():
            raise TableError(f"The model's scores must be {len(self)} numbers in 0..1.")
        return replace(self, scores=np.asarray(scores, dtype=np.float64))


def read_decisions(path: Path, now: datetime | None = None) -> DecisionTable:
    """Raises TableError, which names the file, the row (the first is 1) and the column."""
    if not path.is_file():
        raise TableError(f"{path} is not a file.")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return from_arrow(_read(path), source=str(path), now=now, sha256=digest.hexdigest())


def from_arrow(
    table: pa.Table, source: str = "the table", now: datetime | None = None, sha256: str | None = None
) -> DecisionTable:
    """The same checks for a table in memory. Raises TableError."""
    for name in REQUIRED:
        if name not in table.column_names:
            raise TableError(f"{source} has no column {name!r}.", param=name)
    if table.num_rows == 0:
        raise TableError(f"{source}: there are no rows.")
    columns = Columns(table, source)
    latest = np.datetime64(((now or datetime.now(UTC)) + CLOCK_SKEW).astimezone(UTC).replace(tzinfo=None), "us")
    created, reached = columns.times("created_at", latest), columns.times("reached_at", latest)
    columns.refuse("reached_at", reached < created, "lies before created_at")
    milestones = columns.whole("milestone", at_least=1)
    columns.refuse_repeated(milestones)
    return DecisionTable(
        post_ids=columns.post_ids,
        authors=Labels(*columns.labels("author_id")),
        languages=Labels(*columns.labels("language", nullable=True)),
        content_types=Labels(*columns.labels("content_type")),
        created_at=created,
        reached_at=reached,
        milestones=milestones,
        views=columns.whole("views", at_least=0),
        scores=columns.numbers("score", 0, 1),
        outcomes=_outcomes(columns),
        weights=columns.numbers("weight", np.nextafter(0, 1), np.inf)
        if columns.has("weight")
        else np.ones(len(created)),
        category_scores={name: columns.numbers(name, 0, 1, nullable=True) for name in UNSAFE if columns.has(name)},
        author_posts=_history(columns, "author_posts"),
        author_discards=_history(columns, "author_discards"),
        sha256=sha256 or _hash(table),
    )


def _outcomes(columns: Columns) -> Bools:
    outcomes = columns.truths("outcome")
    if outcomes.all() or not outcomes.any():
        only = "bad" if outcomes.all() else "good"
        raise TableError(f"{columns.source}: every outcome is {only}; a threshold needs both.", param="outcome")
    return outcomes


def _history(columns: Columns, name: str) -> Floats | None:
    return columns.numbers(name, 0, np.inf, nullable=True) if columns.has(name) else None


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix == ".csv":
            header = pa.csv.open_csv(path).schema.names
            as_text = pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in header}, strings_can_be_null=True, null_values=["", "null"]
            )
            return pa.csv.read_csv(path, convert_options=as_text)
        names = set(pa.parquet.read_schema(path).names)
        return pa.parquet.read_table(path, columns=[name for name in (*REQUIRED, *OPTIONAL) if name in names])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        what = "CSV" if path.suffix == ".csv" else "Parquet"
        raise TableError(f"{path} is not a {what} file.") from error


def _hash(table: pa.Table) -> str:
    digest = hashlib.sha256()
    with pa.ipc.new_stream(_Sink(digest), table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return digest.hexdigest()


class _Sink:
    """A file that is only hashed."""

    closed = False

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
