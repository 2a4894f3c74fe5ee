"""docs/similarity.md names every `parakh index` command with its options, every metric, and the true thresholds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from deployments.similarity import deployment
from deployments.similarity.node_settings import SimilaritySettings
from serve_app.index.commands import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "similarity.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0].strip(): part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]}


def commands() -> dict[str, Any]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return dict(group.commands)


def metrics() -> set[str]:
    """As the deployment's source names them."""
    source = Path(deployment.__file__).read_text(encoding="utf-8")
    whole = set(re.findall(r'"(parakh_similarity_\w+)"', source))
    gauges = set(re.findall(r'_gauge\("(\w+)"', source)) | set(deployment._GAUGES)
    return whole | {f"parakh_similarity_{name}" for name in gauges}


def test_every_command_stands_in_the_table_and_no_other() -> None:
    found = re.findall(r"^\| `parakh index (\w+)", SECTIONS["Commands"], flags=re.MULTILINE)
    assert set(found) == set(commands())


@pytest.mark.parametrize("name", commands())
def test_every_option_of_a_command_stands_beside_it(name: str) -> None:
    rows = " ".join(re.findall(rf"^\| `parakh index {name} .*$", SECTIONS["Commands"], flags=re.MULTILINE))
    for parameter in commands()[name].params:
        if parameter.param_type_name == "option" and parameter.name not in ("help", "config", "data_dir"):
            assert parameter.opts[0] in rows, f"parakh index {name} {parameter.opts[0]}"


def test_every_metric_stands_in_the_table_and_no_other() -> None:
    assert len(metrics()) > 10
    assert set(re.findall(r"^\| `(\w+)` \|", SECTIONS["Metrics"], flags=re.MULTILINE)) == metrics()


@pytest.mark.parametrize("use", ["known_bad", "protected", "duplicate"])
def test_the_thresholds_are_the_defaults(use: str) -> None:
    (row,) = re.findall(rf"^\| `{use}` \|(.*)\|$", SECTIONS["Thresholds"], flags=re.MULTILINE)
    said = [cell.strip() for cell in row.split("|")][:4]
    true = SimilaritySettings().use(use).thresholds
    values = (true.visual, true.audio, true.text, true.pdq)
    assert said == ["" if value is None else f"{value:g}" for value in values]


@pytest.mark.parametrize("path", ["README.md", "docs/concepts.md"])
def test_it_can_be_found(path: str) -> None:
    assert "similarity.md)" in (ROOT / path).read_text(encoding="utf-8")
