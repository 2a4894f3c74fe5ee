"""A calibration on disk: whole, strict, and with an id that follows from what it was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.review_gate.artefact import CalibrationSettings, read_calibration, write_calibration
from deployments.review_gate.calibration import calibrate
from deployments.review_gate.table import DecisionTable, from_arrow
from deployments.runtime.errors import MissingWeights, WrongWeights
from tests.review_gate.judged import NOW, overlapping


@pytest.fixture(scope="module")
def table() -> DecisionTable:
    return from_arrow(overlapping(100, 900), now=NOW)


def test_what_was_written_is_read(table: DecisionTable, tmp_path: Path) -> None:
    calibration = calibrate(table)
    write_calibration(tmp_path / "new" / "calibration.json", calibration)

    assert read_calibration(tmp_path / "new") == calibration
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["calibration.json"]


def test_the_id_changes_with_settings_data_and_model(table: DecisionTable) -> None:
    other_data = from_arrow(overlapping(100, 900, seed=1), now=NOW)
    ids = [
        calibrate(table).id,
        calibrate(table, CalibrationSettings(target=0.9)).id,
        calibrate(other_data).id,
        calibrate(table, model="tree", model_version="1").id,
        calibrate(table, model="tree", model_version="2").id,
    ]

    assert len(set(ids)) == len(ids)
    assert calibrate(table).id == ids[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": 2}, "format"),
        ({"extra": 1}, "extra"),
        ({"model": "other"}, "does not belong to this data"),
        ({"strata": []}, "strata"),
        ({"rows": "1000"}, "rows"),
    ],
)
def test_an_altered_file_is_refused_with_the_field(
    table: DecisionTable, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    body = calibrate(table).model_dump(mode="json")
    (tmp_path / "calibration.json").write_text(json.dumps({**body, **changed}))

    with pytest.raises(WrongWeights, match=said):
        read_calibration(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"recall_lower": 0.9}, "below the target"),
        ({"threshold": None}, "lacks its threshold"),
        ({"members": ["hi/video", "hi/video"]}, "two thresholds"),
    ],
)
def test_an_altered_threshold_is_refused(
    table: DecisionTable, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    body = calibrate(table).model_dump(mode="json")
    body["strata"][0].update(changed)
    (tmp_path / "calibration.json").write_text(json.dumps(body))

    with pytest.raises(WrongWeights, match=said):
        read_calibration(tmp_path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="parakh gate calibrate"):
        read_calibration(tmp_path / "nothing.json")
