"""The gate's decision over columns: record batch by record batch, so that a file of any length takes the same memory.

A threshold depends on language, type and milestone alone: it is looked up once for each combination that a batch holds,
through dictionary codes, and each row costs a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from deployments.review_gate.artefact import Calibration

COLUMNS = ("language", "content_type", "milestone", "score")
BATCH_ROWS = 1 << 17


def reviewed(batch: pa.RecordBatch, calibration: Calibration) -> NDArray[np.bool_]:
    """(rows,) true for `review`. The batch holds COLUMNS; strings may be dictionary-encoded."""
    languages, language = _codes(batch.column("language"))
    types, kind = _codes(batch.column("content_type"))
    milestones, milestone = np.unique(batch.column("milestone").to_numpy(zero_copy_only=False), return_inverse=True)
    thresholds = np.full((len(languages), len(types), len(milestones)), -np.inf)
    for index in np.ndindex(thresholds.shape):
        found = calibration.lookup(languages[index[0]], types[index[1]], int(milestones[index[2]]))[1]
        if found is not None:
            thresholds[index] = found
    scores = batch.column("score").to_numpy(zero_copy_only=False)
    result: NDArray[np.bool_] = scores >= thresholds[language, kind, milestone]
    return result


def replay(path: Path, calibration: Calibration) -> Iterator[tuple[pa.RecordBatch, NDArray[np.bool_]]]:
    """Every batch of a Parquet file with what the calibration would decide on it."""
    # With pre_buffer, pyarrow's default, every row group that was read stays in memory until the file is closed.
    with pa.parquet.ParquetFile(path, read_dictionary=["language", "content_type"], pre_buffer=False) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
            yield batch, reviewed(batch, calibration)


def _codes(column: Any) -> tuple[list[Any], NDArray[np.int64]]:
    """Values, None among them where a row has none, and each row's place among them."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    names = [*encoded.dictionary.to_pylist(), None]
    codes = encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)
    return names, codes.astype(np.int64)
