"""`parakh gate train`, as it is typed."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner

from deployments.review_gate import tree_artefact
from deployments.runtime.errors import InvalidInput
from serve_app.gate_train_command import train
from tests.review_gate.decisions import decisions

app = typer.Typer()
app.command()(train)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "decisions.parquet"
    pyarrow.parquet.write_table(decisions(12_000), path)
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_decisions_become_a_tree_that_the_gate_loads(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "tree"
    told = run("--data", str(data), "--output", str(output))
    assert "tree gains" in told
    assert str(output) in told
    card = tree_artefact.read(output).card
    assert card.data_sha256 == tree_artefact.read(output).calibration.data_sha256
    with pytest.raises(InvalidInput, match="is not empty"):
        run("--data", str(data), "--output", str(output))
    run("--data", str(data), "--output", str(output), "--replace", "--seed", "1")


def test_a_recall_beyond_one_is_a_usage_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--recall"):
        run("--data", str(data), "--output", str(tmp_path / "tree"), "--recall", "1.5")


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nothing\.parquet"):
        run("--data", str(tmp_path / "nothing.parquet"), "--output", str(tmp_path / "tree"))
