"""`parakh index`: the partitions of the similarity search, by the one process that owns their directory.

Every command owns the directory while it runs; where a server does, it is refused with that server's pid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from deployments.runtime.errors import InvalidInput
from deployments.similarity.content import PartitionKey
from serve_app.config_file import ConfigOption, DataDirOption, load_config

if TYPE_CHECKING:
    from deployments.similarity.node_settings import SimilaritySettings

app = typer.Typer(no_args_is_help=True, help="The similarity index: build, look at, tune, check, copy, replace.")
console = Console()
errors = Console(stderr=True)

Partition = Annotated[
    str, typer.Argument(metavar="PARTITION", help="bank.language.content_type.modality, such as posts.hi.video.visual.")
]
OnePartition = Annotated[str | None, typer.Argument(metavar="[PARTITION]", help="Only this one; else all of them.")]


@app.command("build")
def build(
    partition: Partition,
    source: Annotated[Path, typer.Argument(help="Embeddings (.npy or .parquet), or a directory of media.")],
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME@VERSION", help="Which encoder made the embeddings.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Ids of a .npy file: .txt, one a line, or .npy; default: NAME.ids.txt or .npy.")
    ] = None,
    skip_refused: Annotated[bool, typer.Option("--skip-refused", help="Load the good rows of a bad file.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Load embeddings in bulk, or embed a directory of media and index it under the files' names."""
    key = PartitionKey.parse(partition)
    if source.is_dir():
        if encoder is not None or ids is not None:
            raise InvalidInput("--encoder and --ids are for embeddings: media is embedded by the profile's encoders.")
        _build_media(key, source, config, data_dir)
    elif encoder is None:
        raise InvalidInput("Say with --encoder NAME@VERSION which encoder made the embeddings.", param="encoder")
    else:
        _build_embeddings(key, source, encoder, ids, skip_refused, config, data_dir)


def _build_embeddings(
    key: PartitionKey,
    source: Path,
    encoder: str,
    ids: Path | None,
    skip_refused: bool,
    config: Path | None,
    data_dir: Path | None,
) -> None:
    from serve_app.index.build import RowsRefused, build_from_file
    from serve_app.index.offline import encoder_of
    from serve_app.index.rendering import built_lines, refusal_lines

    settings = load_config(config, data_dir)
    try:
        with _rows_progress() as progress:
            built = build_from_file(
                settings, key, source, encoder_of(encoder), ids=ids, skip_refused=skip_refused, progress=progress
            )
    except RowsRefused as refused:
        _print(refusal_lines(refused.refused), errors)
        raise
    _print(built_lines(built))
    if built.refused:
        _print([Text(f"{len(built.refused):,} rows refused:"), *refusal_lines(built.refused)], errors)
        raise typer.Exit(1)


def _build_media(key: PartitionKey, source: Path, config: Path | None, data_dir: Path | None) -> None:
    from serve_app.index.media import build_from_media
    from serve_app.index.rendering import media_lines, refusal_lines

    settings = load_config(config, data_dir)
    with _rows_progress() as progress:
        built = build_from_media(settings, key, source, progress=lambda done, total: progress("embedding", done, total))
    _print(media_lines(built))
    if built.refused:
        _print([Text(f"{len(built.refused):,} files refused:"), *refusal_lines(built.refused)], errors)
        raise typer.Exit(1)


@app.command("stats")
def stats(
    partition: OnePartition = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of text.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Measure recall@10 where none is known.")] = False,
    url: Annotated[str | None, typer.Option(help="Ask a server that runs, for instance http://127.0.0.1:8000.")] = None,
    api_key: Annotated[str | None, typer.Option("--key", help="API key for that server, with scope read.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """What there is: items, memory, disk, recall, age, thresholds, generations. Exit 1 where one is damaged."""
    from serve_app.index.care import reports, reports_of_server
    from serve_app.index.rendering import partition_lines

    key = _key(partition)
    if url is not None:
        told = reports_of_server(url, api_key, key)
    else:
        told = reports(_settings(config, data_dir), key, measure=measure)
    for report in told:
        if as_json:
            print(json.dumps(report, ensure_ascii=False))
        else:
            _print(partition_lines(report))
    if not told and not as_json:
        console.print("There are no partitions.")
    if any(report["damaged"] for report in told):
        raise typer.Exit(1)


@app.command("tune")
def tune(
    partition: OnePartition = None,
    every: Annotated[bool, typer.Option("--all", help="Every partition.")] = False,
    recall: Annotated[float, typer.Option(help="The recall@10 to reach, between 0 and 1.")] = 0.95,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Measure how far to search for this recall, and search so until the next training. Exit 1 where it is missed."""
    from serve_app.index.care import tune as tuned
    from serve_app.index.rendering import tuned_table

    if (partition is None) != every:
        raise InvalidInput("Say which partition to tune, or --all.", param="partition")
    settings = _settings(config, data_dir)
    with _progress() as progress:
        found = list(tuned(settings, _key(partition), recall, progress))
    console.print(tuned_table(found))
    console.print("Kept until the next training, which measures by the partition's own target_recall.")
    missed = [one for one in found if one.missed(recall)]
    _print([Text(f"{one.partition}: recall {recall:g} is out of this index type's reach") for one in missed], errors)
    if missed:
        raise typer.Exit(1)


@app.command("verify")
def verify(
    partition: OnePartition = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what another copy proves.")] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Repair, and give up what cannot be repaired; its ids are told.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Hold every row, file and count on the disk against the others. Exit 1 where one is left damaged."""
    from serve_app.index.care import verify_all
    from serve_app.index.rendering import verified_lines

    settings = _settings(config, data_dir)
    well = True
    with _progress() as progress:
        for one in verify_all(settings, _key(partition), repair=repair, accept_loss=accept_loss, progress=progress):
            _print(verified_lines(one))
            well = well and one.ok
    if not well:
        raise typer.Exit(1)


@app.command("snapshot")
def snapshot(partition: OnePartition = None, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Write what is in memory only to segment files, so that the next start replays nothing."""
    from serve_app.index.care import snapshot as snapshots

    settings = _settings(config, data_dir)
    with _progress() as progress:
        for name, number, items in snapshots(settings, _key(partition), progress):
            console.print(f"{name} generation {number}: {items:,} items", highlight=False, soft_wrap=True)


@app.command("backup")
def backup(
    partition: Partition,
    destination: Annotated[str, typer.Argument(help="A directory of this partition's own, or s3://bucket/prefix.")],
    keep: Annotated[int | None, typer.Option(min=1, help="How many backups stay there; all where missing.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Copy the live generation; segment files that are there already are not sent again."""
    from serve_app.index.backups import backup as back_up
    from serve_app.index.rendering import size

    settings = _settings(config, data_dir)
    with _progress() as progress:
        info = back_up(settings, PartitionKey.parse(partition), destination, keep, progress)
    told = f"{info.name}: {info.items:,} items, {size(info.bytes)}, of which {size(info.sent_bytes)} were sent"
    console.print(told, highlight=False, soft_wrap=True)
    for name in info.skipped:
        console.print(f"segment {name} is damaged, and left out: a restore builds it from the rows", soft_wrap=True)


@app.command("restore")
def restore(
    partition: Partition,
    source: Annotated[str, typer.Argument(help="Where the backups are.")],
    name: Annotated[str | None, typer.Option(help="Which backup; the newest where missing.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a backup the live generation; what was live is kept, and `parakh index rollback` goes back to it."""
    from serve_app.index.backups import restore as restored

    settings = _settings(config, data_dir)
    with _progress() as progress:
        generation, info = restored(settings, PartitionKey.parse(partition), source, name, progress)
    told = f"{partition}: {info.items:,} items of {info.name} are live as generation {generation.number}"
    console.print(told, highlight=False, soft_wrap=True)


@app.command("backups")
def backups(destination: Annotated[str, typer.Argument(help="A directory, or s3://bucket/prefix.")]) -> None:
    """List the whole backups of a place, oldest first."""
    from deployments.similarity.embedded.backup import backups as found
    from serve_app.index.rendering import backups_table

    console.print(backups_table(found(destination)))


@app.command("begin")
def begin(
    partition: Partition,
    encoder: Annotated[str, typer.Option(metavar="NAME@VERSION", help="Which encoder's vectors it will hold.")],
    dimension: Annotated[
        int | None, typer.Option(min=1, help="Of its vectors; known where the encoder is the live one.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Begin a generation beside the live one, with the index settings that the configuration has now."""
    from serve_app.index.generations import begin as begun
    from serve_app.index.offline import encoder_of

    settings = _settings(config, data_dir)
    one = begun(settings, PartitionKey.parse(partition), encoder_of(encoder), dimension)
    told = f"{partition}: generation {one.number} of {one.encoder} ({one.settings.index_type}) is being built"
    console.print(told, highlight=False, soft_wrap=True)


@app.command("copy")
def copy(partition: Partition, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Fill the generation being built from the live one: the same encoder, other index settings."""
    from serve_app.index.generations import copy as copied

    settings = _settings(config, data_dir)
    with _progress() as progress:
        count = copied(settings, PartitionKey.parse(partition), progress)
    console.print(f"{partition}: {count:,} items copied", highlight=False, soft_wrap=True)


@app.command("switch")
def switch(
    partition: Partition,
    force: Annotated[bool, typer.Option("--force", help="Though items of the live generation are lacking.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Put the generation that was built in the live one's place; that one is kept for a rollback."""
    from serve_app.index.generations import StillLacking
    from serve_app.index.generations import switch as switched
    from serve_app.index.rendering import switched_lines

    settings = _settings(config, data_dir)
    try:
        done = switched(settings, PartitionKey.parse(partition), force=force)
    except StillLacking as lacking:
        _print(switched_lines(lacking.switched), errors)
        raise
    _print(switched_lines(done))
    console.print(f"{partition}: generation {done.live.number} of {done.live.encoder} is live", highlight=False)


@app.command("rollback")
def rollback(partition: Partition, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Put the previous generation back; a second rollback undoes the first."""
    from serve_app.index.generations import rollback as rolled_back
    from serve_app.index.rendering import switched_lines

    done = rolled_back(_settings(config, data_dir), PartitionKey.parse(partition))
    _print(switched_lines(done))
    console.print(f"{partition}: generation {done.live.number} of {done.live.encoder} is live", highlight=False)


@app.command("retire")
def retire(
    partition: Partition,
    generation: Annotated[int | None, typer.Argument(help="Its number; needed where there are two to choose.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Give up a generation that is not live, and its data, for good."""
    from serve_app.index.generations import retire as retired

    number = retired(_settings(config, data_dir), PartitionKey.parse(partition), generation)
    console.print(f"{partition}: generation {number} is retired, and its data removed", highlight=False)


def _settings(config: Path | None, data_dir: Path | None) -> SimilaritySettings:
    return load_config(config, data_dir).similarity.settings


def _key(partition: str | None) -> PartitionKey | None:
    return None if partition is None else PartitionKey.parse(partition)


def _print(lines: list[Text], to: Console = console) -> None:
    for line in lines:  # Text: what users name their files and posts is not markup
        to.print(line, highlight=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task("opening", total=1.0)
        yield lambda step, share: progress.update(task, description=step, completed=share)


@contextmanager
def _rows_progress() -> Iterator[Callable[[str, int, int], None]]:
    with Progress(console=errors, transient=True) as progress:
        task = progress.add_task("opening", total=None)
        yield lambda step, done, total: progress.update(task, description=step, completed=done, total=total)
