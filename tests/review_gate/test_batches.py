"""The decision over columns is the decision of every row by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from deployments.review_gate.artefact import Calibration
from deployments.review_gate.batches import replay, reviewed
from deployments.review_gate.calibration import calibrate
from deployments.review_gate.table import from_arrow
from tests.review_gate.judged import NOW, overlapping


@pytest.fixture(scope="module")
def table() -> pa.Table:
    languages = (["hi", "ta-IN", None, "ml"] * 750)[:3000]
    return overlapping(600, 2400, language=languages, content_type=["video", "image", "text"] * 1000)


@pytest.fixture(scope="module")
def calibration(table: pa.Table) -> Calibration:
    return calibrate(from_arrow(table, now=NOW))


def one_by_one(table: pa.Table, calibration: Calibration) -> list[bool]:
    found = []
    for row in table.to_pylist():
        threshold = calibration.lookup(row["language"], row["content_type"], row["milestone"])[1]
        found.append(threshold is None or row["score"] >= threshold)
    return found


@pytest.mark.parametrize("encoded", [False, True])
def test_a_batch_is_decided_as_its_rows(table: pa.Table, calibration: Calibration, encoded: bool) -> None:
    if encoded:
        table = table.set_column(2, "language", table.column("language").dictionary_encode())
    batch = table.combine_chunks().to_batches()[0]

    assert reviewed(batch, calibration).tolist() == one_by_one(table, calibration)


def test_what_the_calibration_does_not_know_is_reviewed(table: pa.Table, calibration: Calibration) -> None:
    other = table.set_column(2, "language", pa.array(["xx"] * len(table)))

    assert reviewed(other.combine_chunks().to_batches()[0], calibration).all()


def test_a_file_is_replayed_whole_and_in_order(table: pa.Table, calibration: Calibration, tmp_path: Path) -> None:
    pa.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=700)
    found = np.concatenate([mask for _, mask in replay(tmp_path / "t.parquet", calibration)])

    assert found.tolist() == one_by_one(table, calibration)
