"""`parakh gate`: calibrate its thresholds, train its tree, see whether its scores have drifted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from deployments.runtime.errors import InvalidInput
from serve_app import gate_train_command
from serve_app.config_file import ConfigOption, DataDirOption, load_config

if TYPE_CHECKING:
    import pyarrow as pa

    from deployments.review_gate.table import DecisionTable
    from serve_app.config import AppConfig

app = typer.Typer(no_args_is_help=True, help="The review gate: calibrate its thresholds, train its tree, watch drift.")
app.command("train")(gate_train_command.train)
console = Console()
REPORT, CURVE = "report.html", "operating_curve.png"

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Table of judged decisions, Parquet or CSV; else those of the records.")
]


@app.command("calibrate")
def calibrate(
    output: Annotated[Path, typer.Option("--output", help="Directory of the calibration and its report.")],
    data: DataOption = None,
    recall: Annotated[float, typer.Option(help="Recall that each threshold must keep.")] = 0.95,
    confidence: Annotated[float, typer.Option(help="Of each threshold's lower bound, one-sided.")] = 0.95,
    method: Annotated[
        str, typer.Option(help="exact, bootstrap, or auto: by whether authors repeat or posts have weights.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    seconds_per_review: Annotated[float, typer.Option(help="What one review takes a person.")] = 30.0,
    cost_per_hour: Annotated[float | None, typer.Option(help="Of that person; without it only hours are told.")] = None,
    currency: Annotated[str, typer.Option(help="Of the cost.")] = "INR",
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a calibration that is there already.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Find the highest thresholds that keep the recall, and say what they save."""
    from pydantic import ValidationError

    from deployments.review_gate import calibration as calibrating
    from deployments.review_gate.artefact import FILE, CalibrationSettings, write_calibration
    from deployments.review_gate.report import ReviewCost, as_html, as_lines, savings
    from deployments.runtime.artefact_files import write_whole

    if (output / FILE).exists() and not replace:
        raise InvalidInput(f"{output} holds a calibration already; --replace overwrites it.", param="output")
    try:
        settings = CalibrationSettings.model_validate(
            {"target": recall, "confidence": confidence, "method": method, "seed": seed}
        )
        cost = ReviewCost(seconds_per_review=seconds_per_review, cost_per_hour=cost_per_hour, currency=currency)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidInput(f"{first['loc'][0]}: {first['msg']}.", param=str(first["loc"][0])) from None
    table = _decisions(data, config, data_dir)
    with console.status("calibrating"):
        found = calibrating.calibrate(table, settings)
        page, picture = as_html(table, found, cost)
    write_whole(output / CURVE, picture)
    write_whole(output / REPORT, page.encode())
    write_calibration(output / FILE, found)  # last: whoever waits for it finds its report
    for line in as_lines(found, savings(table, found, cost), cost):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for stratum in found.strata:
        if stratum.threshold is None:
            text = f"reviewed whole: {', '.join(stratum.members)} at {stratum.milestone} views, too few bad posts"
            console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(f"Set the gate's `calibration` to {(output / FILE).absolute()} to serve it.", soft_wrap=True)


@app.command("drift")
def drift(
    calibration: Annotated[Path, typer.Option("--calibration", help="The calibration's file or directory.")],
    data: DataOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Hold today's scores against the calibration's, by language and category; exit 1 where some have shifted."""
    from deployments.review_gate import drift as drifting
    from deployments.review_gate.artefact import read_calibration

    found = drifting.drift(read_calibration(calibration).histograms, _decisions(data, config, data_dir))
    table = Table(title="population stability index")
    for heading in ("language", "category", "PSI", "noise", "scores", "reading"):
        table.add_column(heading, justify="left" if heading in ("language", "category", "reading") else "right")
    for row in found:
        numbers = (f"{row.psi:.3f}", f"{row.noise:.3f}", f"{row.n:,.0f}")
        table.add_row(row.language, row.category, *numbers, row.reading)
    console.print(table)
    if any(row.reading == "shifted" for row in found):
        raise typer.Exit(1)


def _decisions(data: Path | None, config: Path | None, data_dir: Path | None) -> DecisionTable:
    """Raises TableError."""
    from deployments.review_gate.table import from_arrow, read_decisions

    if data is not None:
        return read_decisions(data)
    return from_arrow(asyncio.run(_recorded(load_config(config, data_dir))), source="the records")


async def _recorded(config: AppConfig) -> pa.Table:
    import pyarrow as pa

    from serve_app.key_commands import opened_records
    from serve_app.records.outcomes import SCHEMA

    async with opened_records(config) as records:
        batches = [batch async for batch in records.decision_table.batches()]
    return pa.Table.from_batches(batches, schema=SCHEMA)
