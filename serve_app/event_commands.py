"""`parakh consume` and `parakh events`: the event path without a server, its dead letters and their replay."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.runtime.errors import InvalidInput, NodeUnavailable
from serve_app.config import AppConfig
from serve_app.config_file import ConfigOption, DataDirOption, load_config
from serve_app.events.brokers import open_producer
from serve_app.events.replay import Choice, Replay
from serve_app.key_commands import opened_records
from serve_app.media_store import open_media_store
from serve_app.records.values import DeadLetter

app = typer.Typer(no_args_is_help=True, help="Events: dead letters, and their replay.")
console = Console()
PAGE = 100
CodeOption = Annotated[str | None, typer.Option("--code", help="Only letters refused with this code.")]
TopicOption = Annotated[str | None, typer.Option("--topic", help="Only letters of this topic.")]
SinceOption = Annotated[float | None, typer.Option("--since-h", help="Only letters of the last so many hours.")]


class BrokerOff(InvalidInput):
    message = "events.broker.kind is off: there is nothing to consume, and nowhere to replay to."


class RayUnreachable(NodeUnavailable):
    message = (
        "Ray cannot be reached at that address. Where it asks for a token, as a Ray of one machine does by default, "
        "set RAY_AUTH_MODE=token; the token lies in ~/.ray/auth_token (`ray get-auth-token` shows it)."
    )


def consume(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    attach: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster (or `auto`) whose application's nodes do the work."),
    ] = None,
    application: Annotated[str, typer.Option(help="Name of that Serve application.")] = "parakh",
    metrics_port: Annotated[int | None, typer.Option(help="Prometheus metrics on 127.0.0.1 at this port.")] = None,
) -> None:
    """Work off events in this process until SIGTERM or Ctrl-C, which let it finish what it has in work.

    Without --attach the models run here, and matches are not looked for: the index belongs to the server. What is
    judged is indexed by the server all the same.
    """
    settings = load_config(config, data_dir)
    if settings.events.broker.kind == "off":
        raise BrokerOff
    asyncio.run(_consume(settings, attach, application, metrics_port))


async def _consume(config: AppConfig, attach: str | None, application: str, metrics_port: int | None) -> None:
    from serve_app.assembly import assemble
    from serve_app.events.path import EventPath
    from serve_app.metrics import Metrics, PrometheusMeter

    metrics = Metrics(PrometheusMeter())
    if metrics_port is not None:
        from prometheus_client import start_http_server

        start_http_server(metrics_port, addr="127.0.0.1")
    async with _nodes(config, attach, application) as (nodes, similarity):
        parts = assemble(config, nodes, similarity, metrics.lookup)
        path = EventPath(config, nodes, parts, metrics=metrics, indexed=config.similarity.enabled)
        stopped = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stopped.set)
        await path.start()
        console.print("consuming", *config.events.broker.topics.incoming, style="dim")
        ended = asyncio.create_task(path.wait())
        stop = asyncio.create_task(stopped.wait())
        await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        await path.stop()
        await ended  # raises what ended the consumer, where that was no signal


@asynccontextmanager
async def _nodes(config: AppConfig, attach: str | None, application: str) -> AsyncIterator[tuple[Any, Any]]:
    if attach is None:
        from serve_app.local_nodes import LocalNodes

        nodes = LocalNodes(config)
        try:
            yield nodes, None
        finally:
            await nodes.close()
        return
    from serve_app.graph import attached

    with ExitStack() as stack:
        try:
            handles = stack.enter_context(attached(config, attach, application))
        except ConnectionError as error:
            raise RayUnreachable from error
        yield handles, handles.similarity


@app.command("dead")
def dead(
    code: CodeOption = None,
    topic: TopicOption = None,
    since_h: SinceOption = None,
    replayed: Annotated[bool, typer.Option(help="Also those that were replayed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with the original bytes.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = PAGE,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List dead letters: messages that can never be worked off as they are, and why."""
    settings = load_config(config, data_dir)
    letters = asyncio.run(_letters(settings, code, topic, since_h, None if replayed else False, limit))
    if as_json:
        for letter in letters:
            print(json.dumps(_shown(letter), ensure_ascii=False))
        return
    table = Table(title=f"{len(letters)} dead letters")
    for heading in ("id", "at", "place", "code", "reason", "bytes", "replays"):
        table.add_column(heading, overflow="fold")
    for letter in letters:
        place = f"{letter.topic}/{letter.partition}@{letter.offset}"
        row = (letter.id, f"{letter.at:%Y-%m-%d %H:%M:%S}", place, letter.code, letter.reason)
        table.add_row(*map(Text, row), str(letter.size), str(letter.attempts))
    console.print(table)


@app.command("replay")
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of letters; or choose by the options.")] = None,
    code: CodeOption = None,
    topic: TopicOption = None,
    since_h: SinceOption = None,
    every: Annotated[bool, typer.Option("--all", help="All that were not replayed yet.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say which, send nothing.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Send dead letters to their topic again, as they came, oldest first. One that is dead again keeps its id."""
    settings = load_config(config, data_dir)
    if not (ids or code or topic or since_h or every):
        raise InvalidInput("Say which letters: ids, --code, --topic, --since-h or --all.")
    if settings.events.broker.kind == "off":
        raise BrokerOff
    sent, failed = asyncio.run(_replay(settings, ids or [], code, topic, since_h, dry_run))
    console.print(f"{'would replay' if dry_run else 'replayed'} {sent}" + (f", {failed} failed" if failed else ""))
    if failed:
        raise typer.Exit(1)


async def _letters(
    config: AppConfig, code: str | None, topic: str | None, since_h: float | None, replayed: bool | None, limit: int
) -> list[DeadLetter]:
    since = None if since_h is None else datetime.now(UTC) - timedelta(hours=since_h)
    async with opened_records(config) as records:
        return await records.dead_letters.list(code=code, topic=topic, since=since, replayed=replayed, limit=limit)


async def _replay(
    config: AppConfig, ids: list[str], code: str | None, topic: str | None, since_h: float | None, dry_run: bool
) -> tuple[int, int]:
    """How many were sent, and how many could not be."""
    since = None if since_h is None else datetime.now(UTC) - timedelta(hours=since_h)
    choice = Choice(ids, code, topic, since)
    async with opened_records(config) as records:
        replay = Replay(records.dead_letters, lambda id_, reason: console.print(Text(f"{id_}: {reason}")))
        if dry_run:
            await replay.count(choice)
        else:
            async with _producing(config) as producer:
                await replay.send(choice, producer, open_media_store(config.media_store_url))
    return replay.sent, replay.failed


@asynccontextmanager
async def _producing(config: AppConfig) -> AsyncIterator[Any]:
    producer = open_producer(config.events.broker)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.close()


def _shown(letter: DeadLetter) -> dict[str, object]:
    import base64

    return {
        "id": letter.id,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "at": letter.at.isoformat(),
        "code": letter.code,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "size": letter.size,
        "key_base64": None if letter.key is None else base64.b64encode(letter.key).decode(),
        "value_base64": None if letter.value is None else base64.b64encode(letter.value).decode(),
        "value_sha256": letter.value_sha256,
        "headers_base64": {name: base64.b64encode(value).decode() for name, value in letter.headers.items()},
    }
