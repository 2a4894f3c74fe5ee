"""What every benchmark prints: rows of metric, value, unit, baseline and ratio, with the hardware named."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure. `ratio` is value / baseline, or None where there is nothing to compare with."""

    metric: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Options:
    quick: bool
    json: Path | None


def options(question: str) -> Options:
    """Parse the two switches that every benchmark has."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a short run, under a minute on two cores; figures to quote need a full one",
    )
    parser.add_argument("--json", type=Path, default=None, help="also write the rows to this file")
    given = parser.parse_args()
    return Options(given.quick, given.json)


def against(metric: str, value: float, unit: str, baseline: float) -> Row:
    return Row(metric, value, unit, baseline, value / baseline if baseline else None)


def report(title: str, rows: list[Row], given: Options) -> None:
    """Print the table; write the JSON where it was asked for."""
    table = Table(title=f"{title}\n{hardware()}", title_justify="left")
    for heading in ("metric", "value", "unit", "baseline", "ratio"):
        table.add_column(heading, justify="left" if heading in ("metric", "unit") else "right")
    for row in rows:
        table.add_row(row.metric, _number(row.value), row.unit, _number(row.baseline), _number(row.ratio))
    Console(width=120).print(table)
    if given.json is not None:
        body = {"benchmark": title, "hardware": hardware(), "quick": given.quick, "rows": [asdict(r) for r in rows]}
        given.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end of the run"


def median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else float("nan")


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
