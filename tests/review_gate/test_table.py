"""The table of decisions: read whole, or refused with the row and the column that are wrong."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from deployments.review_gate.columns import TableError
from deployments.review_gate.table import DecisionTable, from_arrow, read_decisions
from tests.review_gate.judged import NOW, columns, decisions

SCORES, OUTCOMES = [0.1, 0.6, 0.9], [False, True, True]
LATER = NOW + timedelta(days=1)


def read(**changed: Any) -> DecisionTable:
    return from_arrow(decisions(SCORES, OUTCOMES, **changed), "t", now=NOW)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_is_read_with_the_hash_of_its_bytes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"decisions.{suffix}"
    table = decisions(SCORES, OUTCOMES, language=["hi", None, "ta"], weight=[1.0, 50.0, 1.0])
    pa.parquet.write_table(table, path) if suffix == "parquet" else pa.csv.write_csv(table, path)

    got = read_decisions(path, now=NOW)

    assert got.scores.tolist() == SCORES
    assert got.outcomes.tolist() == OUTCOMES
    assert got.weights.tolist() == [1, 50, 1]
    assert got.languages.values().tolist() == ["hi", "", "ta"]
    assert got.created_at[0] == np.datetime64("2026-05-30T00:00:00")
    assert got.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_times_of_other_zones_become_utc() -> None:
    times = ["2026-05-30T05:30:00+05:30", "2026-05-30T00:00:00Z", "2026-05-29T19:00:00-05:00"]

    assert set(read(created_at=times).created_at) == {np.datetime64("2026-05-30T00:00:00")}


def test_what_is_not_known_stays_unknown() -> None:
    table = read(author_posts=[3, None, 0], nudity=[0.1, None, 0.2])

    assert table.author_posts is not None
    assert np.isnan(table.author_posts).tolist() == [False, True, False]
    assert np.isnan(table.category_scores["nudity"]).tolist() == [False, True, False]
    assert table.author_discards is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"score": [0.1, 1.5, 0.9]}, "row 2 (post p1): score must lie in 0..1"),
        ({"score": [0.1, 0.2, float("nan")]}, "row 3 (post p2): score is not a number"),
        ({"score": [None, 0.2, 0.3]}, "row 1 (post p0): score is missing"),
        ({"score": ["0.1", "high", "0.3"]}, "row 2 (post p1): score must be a number"),
        ({"nudity": [0.1, 0.2, -1.0]}, "row 3 (post p2): nudity must lie in 0..1"),
        ({"views": [1000, -1, 1000]}, "row 2 (post p1): views must not be negative"),
        ({"views": [1000, 10.5, 1000]}, "row 2 (post p1): views must be a whole number"),
        ({"milestone": [1000, 0, 1000]}, "row 2 (post p1): milestone must be at least 1"),
        ({"weight": [1.0, 0.0, 1.0]}, "row 2 (post p1): weight must be above 0"),
        ({"author_discards": [0, 0, -2]}, "row 3 (post p2): author_discards must not be negative"),
        ({"author_id": ["a", "", "c"]}, "row 2 (post p1): author_id is empty"),
        ({"author_id": [1, 2, 3]}, "row 1 (post p0): author_id must be text"),
        ({"outcome": [True, None, False]}, "row 2 (post p1): outcome is missing"),
        ({"outcome": ["true", "perhaps", "false"]}, "row 2 (post p1): outcome must be true or false"),
        ({"post_id": ["a", "b", "a"]}, "row 3 (post a): post_id stands there a second time at milestone 1000"),
        ({"created_at": [datetime(2026, 5, 1)] * 3}, "row 1 (post p0): created_at has no time zone"),
        ({"reached_at": ["2026-05-31T00:00:00Z", "2026-05-31 00:00", "x"]}, "row 2 (post p1): reached_at has no time"),
        ({"reached_at": ["2026-05-31T00:00:00Z"] * 2 + ["2026-13-31T00:00Z"]}, "row 3 (post p2): reached_at must be"),
        ({"reached_at": [NOW, LATER, NOW]}, "row 2 (post p1): reached_at lies in the future"),
        ({"created_at": [NOW, NOW, NOW]}, "row 1 (post p0): reached_at lies before created_at"),
        ({"outcome": [True] * 3}, "every outcome is bad"),
        ({"outcome": [False] * 3}, "every outcome is good"),
    ],
)
def test_a_wrong_value_is_named_by_row_and_column(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(TableError) as caught:
        read(**changed)

    assert said in str(caught.value)


def test_one_post_may_stand_at_two_milestones() -> None:
    assert len(read(post_id=["a", "a", "b"], milestone=[1000, 2000, 1000])) == 3


def test_an_empty_table_and_a_missing_column_are_refused() -> None:
    with pytest.raises(TableError, match="there are no rows"):
        from_arrow(decisions(SCORES, OUTCOMES).slice(0, 0))
    with pytest.raises(TableError, match="no column 'score'"):
        from_arrow(pa.table({n: v for n, v in columns(SCORES, OUTCOMES).items() if n != "score"}))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(TableError, match="not a Parquet file"):
        read_decisions(tmp_path / "x.parquet")
    with pytest.raises(TableError, match="is not a file"):
        read_decisions(tmp_path / "y.parquet")


def test_another_models_scores_take_the_place_of_the_posts_own() -> None:
    table = read()

    assert table.with_scores(np.array([0.3, 0.2, 0.1])).scores.tolist() == [0.3, 0.2, 0.1]
    with pytest.raises(TableError):
        table.with_scores(np.array([0.3, 2.0, 0.1]))
