"""`parakh gate train`: judged decisions in, a directory with a tree, its thresholds and its card out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

console = Console()
errors = Console(stderr=True)


def train(
    data: Annotated[Path, typer.Option("--data", help="Table of judged decisions, Parquet or CSV.")],
    output: Annotated[Path, typer.Option("--output", help="Directory of the new tree.")],
    recall: Annotated[float, typer.Option(help="Recall that each threshold must keep.")] = 0.95,
    confidence: Annotated[float, typer.Option(help="Of each threshold's lower bound, one-sided.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a tree that is there already.")] = False,
) -> None:
    """Train the gate's tree on decisions, calibrate its thresholds, and hold it against the score alone."""
    from pydantic import ValidationError

    from deployments.review_gate.artefact import CalibrationSettings
    from deployments.review_gate.make_tree import as_text, make_tree
    from deployments.review_gate.table import read_decisions
    from deployments.review_gate.train import TreeSettings
    from deployments.runtime.errors import InvalidInput

    try:
        kept = CalibrationSettings(target=recall, confidence=confidence, seed=seed)
    except ValidationError:
        raise InvalidInput("--recall and --confidence must lie between 0 and 1.") from None
    with Progress(console=errors, transient=True) as bars:
        task = bars.add_task("Growing trees", total=None)
        card = make_tree(
            read_decisions(data),
            output,
            TreeSettings(seed=seed),
            kept,
            replace=replace,
            progress=lambda done, most: bars.update(task, completed=done, total=most),
        )
    console.print(as_text(card), highlight=False, markup=False, soft_wrap=True)
    console.print(f"Set the gate's `tree` to {output.absolute()} to serve it.", soft_wrap=True, highlight=False)
