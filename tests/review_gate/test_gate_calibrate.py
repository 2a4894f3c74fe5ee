"""`parakh gate calibrate` and `parakh gate drift`: a directory with thresholds and report, or a refusal and nothing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from deployments.review_gate.artefact import read_calibration
from deployments.review_gate.calibration import ThinData
from deployments.review_gate.columns import TableError
from deployments.runtime.errors import InvalidInput
from serve_app.cli import app
from tests.review_gate.judged import decisions, overlapping


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "decisions.parquet"
    pa.parquet.write_table(overlapping(200, 1800, language=["hi", "<ta>"] * 1000), path)
    return path


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["gate", *map(str, arguments)], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_it_writes_thresholds_a_curve_and_a_page_that_stands_alone(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "gate"
    said = run("calibrate", "--data", data, "--output", out, "--cost-per-hour", "150")

    calibration = read_calibration(out)
    page = (out / "report.html").read_text()
    assert "of reviews saved" in said
    assert calibration.lookup("hi", "video", 1000)[1] is not None
    assert (out / "operating_curve.png").read_bytes().startswith(b"\x89PNG")
    assert calibration.data_sha256 in page
    assert "data:image/png;base64," in page
    assert "http" not in page
    assert "<ta>" not in page
    assert "INR" in page


def test_the_same_data_gives_the_same_files(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run("calibrate", "--data", data, "--output", tmp_path / name)

    for file in ("calibration.json", "report.html", "operating_curve.png"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--recall", "1.5"), InvalidInput),
        (("--confidence", "0"), InvalidInput),
        (("--method", "guess"), InvalidInput),
        (("--seconds-per-review", "-1"), InvalidInput),
        (("--recall", "0.999"), ThinData),
    ],
)
def test_what_cannot_be_claimed_writes_nothing(
    data: Path, tmp_path: Path, arguments: tuple[str, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        run("calibrate", "--data", data, "--output", tmp_path / "gate", *arguments)
    assert not (tmp_path / "gate").exists()


def test_a_bad_table_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    pa.parquet.write_table(decisions([0.1, 2.0], [True, False]), path)

    with pytest.raises(TableError, match="row 2"):
        run("calibrate", "--data", path, "--output", tmp_path / "gate")
    assert not (tmp_path / "gate").exists()


def test_a_calibration_is_only_overwritten_when_told_to(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "gate"
    run("calibrate", "--data", data, "--output", out)
    with pytest.raises(InvalidInput, match="--replace"):
        run("calibrate", "--data", data, "--output", out, "--recall", "0.9")

    run("calibrate", "--data", data, "--output", out, "--recall", "0.9", "--replace")
    assert read_calibration(out).settings.target == 0.9


def test_drift_is_told_by_language(data: Path, tmp_path: Path) -> None:
    run("calibrate", "--data", data, "--output", tmp_path / "gate")

    said = run("drift", "--data", data, "--calibration", tmp_path / "gate")
    assert "stable" in said
    assert "shifted" not in said


def test_without_a_table_the_records_are_asked(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="the records: there are no rows"):
        run("calibrate", "--output", tmp_path / "gate", "--data-dir", tmp_path / "data")
    assert not (tmp_path / "gate").exists()
