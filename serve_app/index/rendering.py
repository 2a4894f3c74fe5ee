"""What `parakh index` tells a person: partitions, findings, backups, in lines that fit any terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from deployments.similarity.embedded.backup import BackupInfo
from serve_app.index.build import Built
from serve_app.index.care import Tuned, Verified
from serve_app.index.generations import Switched
from serve_app.index.media import MediaBuilt

_REFUSALS_SHOWN = 20
_FINDING_STYLES: Mapping[str, str] = {"found": "bold red", "repaired": "green", "lost": "yellow"}
_MiB = 1 << 20


def partition_lines(report: Mapping[str, Any]) -> list[Text]:
    """Of one partition, as `parakh index stats --json` or the HTTP API says it; what is not told is left out."""
    if report.get("damaged"):
        head = Text.assemble((str(report["partition"]), "bold"), ("  damaged: ", "bold red"), str(report["damaged"]))
        return [head, *_generation_lines(report)]
    encoder = report.get("encoder") or {}
    index = [str(report.get("index_type")), str(report.get("metric"))]
    index += [f"{name} {report[name]}" for name in ("nlist", "effort") if report.get(name) is not None]
    head = Text.assemble(
        (str(report["partition"]), "bold"),
        f"  {encoder.get('name')}@{encoder.get('version')}, {report.get('dimension')} dimensions, {' '.join(index)}",
    )
    amounts = [
        *(_many(report[name], said) for name, said in _COUNTS.items() if report.get(name) is not None),
        f"{size(report['memory_bytes'])} of memory",
        f"{size(report['disk_bytes'])} of disk",
    ]
    recall = report.get("recall_estimate")
    state = [
        f"recall {recall:.3f}" if recall is not None else "recall not measured",
        f"newest vector {_age(report.get('newest_at'))}",
        f"last snapshot {_age(report.get('snapshot_at'))}",
    ]
    lines = [head, Text("  " + " · ".join(amounts)), Text("  " + " · ".join(state))]
    thresholds = report.get("thresholds") or {}
    if thresholds:
        told = ", ".join(f"{use} {value:g}" for use, value in thresholds.items())
        lines.append(Text(f"  counts as a match: {told}"))
    lines += [Text(f"  repaired at this opening: {what}", style="yellow") for what in report.get("repaired") or []]
    return lines + _generation_lines(report)


_COUNTS = {"items": "item", "segments": "segment", "buffered": "buffered", "deleted": "tombstone"}


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 or noun == 'buffered' else 's'}"


def _generation_lines(report: Mapping[str, Any]) -> list[Text]:
    generations = report.get("generations") or []
    lines = []
    for one in generations if len(generations) > 1 or report.get("damaged") else []:
        items = "damaged: " + one["damaged"] if one["damaged"] else f"{one['items']:,} items"
        missed = ", missed writes" if one["incomplete"] else ""
        told = f"  generation {one['number']}: {one['state']}, {one['encoder']}, {one['index_type']}, {items}{missed}"
        lines.append(Text(told))
    return lines


def built_lines(built: Built) -> list[Text]:
    rate = built.loaded / max(built.seconds, 1e-9)
    generations = ", ".join(map(str, built.generations))
    said = f"{built.loaded:,} rows loaded in {built.seconds:.1f} s ({rate:,.0f} rows/s) into generation {generations}"
    replaced = f"; {built.replaced:,} of them replaced what was there" if built.replaced else ""
    return [Text(said + replaced), *(Text(note, style="dim") for note in built.notes)]


def media_lines(built: MediaBuilt) -> list[Text]:
    count = len(built.indexed)
    rate = count / max(built.seconds, 1e-9)
    lines = [Text(f"{count:,} files indexed in {built.seconds:.1f} s ({rate:.1f} files/s)")]
    return lines + [Text(f"  {name}: {items:,}") for name, items in built.by_partition.items()]


def refusal_lines(refused: Mapping[int, str] | Mapping[str, str]) -> list[Text]:
    """By row number, or by file name."""
    shown = [
        Text(f"{f'row {row}' if isinstance(row, int) else row}: {why}")
        for row, why in list(refused.items())[:_REFUSALS_SHOWN]
    ]
    more = len(refused) - len(shown)
    return shown + ([Text(f"and {more} more")] if more else [])


def tuned_table(tuned: Sequence[Tuned]) -> Table:
    table = Table(title="Tuned")
    table.add_column("partition", overflow="fold")
    for heading in ("effort", "recall@10", "queries/s"):
        table.add_column(heading, justify="right")
    for one in tuned:
        efforts = "exact" if one.effort[1] is None else f"{one.effort[0]} -> {one.effort[1]}"
        table.add_row(one.partition, efforts, _change(one.recall, ".3f"), _change(one.queries_per_s, ",.0f"))
    return table


def _change(values: tuple[float | None, float | None], how: str) -> str:
    before, after = values
    return "empty" if before is None or after is None else f"{before:{how}} -> {after:{how}}"


def verified_lines(one: Verified) -> list[Text]:
    name = f"{one.partition} generation {one.number} ({one.state})" if one.number is not None else one.partition
    if one.report is None:
        return [Text.assemble((name, "bold"), (": ", ""), (str(one.refused), "bold red"))]
    report = one.report
    verdict = ("sound", "green") if report.sound else ("well again", "green") if report.ok else ("damaged", "bold red")
    read = f": {report.rows:,} rows, {_many(report.segments, 'segment')}, {report.seconds:.1f} s: "
    lines = [Text.assemble((name, "bold"), read, verdict)]
    lines += [
        Text.assemble("  ", (finding.outcome, _FINDING_STYLES[finding.outcome]), f" {finding.kind}: {finding.what}")
        for finding in report.findings
    ]
    if report.lost_commits:
        lines.append(Text(f"  commits that are lost, so far as can be told: {report.lost_commits}", style="yellow"))
    lines += [Text(f"  to be indexed again: {id_}") for id_ in report.lost_ids]
    return lines


def switched_lines(switched: Switched) -> list[Text]:
    """What the generation that comes does not have of the one that goes."""
    if switched.unknown:
        return [Text(f"it cannot be told what is lacking: {switched.unknown}", style="yellow")]
    if not switched.lacking:
        return [Text("nothing is lacking")]
    lines = [Text(f"{switched.lacking:,} items are lacking:", style="yellow")]
    lines += [Text(f"  {id_}") for id_ in switched.lacking_ids]
    more = switched.lacking - len(switched.lacking_ids)
    return lines + ([Text(f"  and {more:,} more")] if more else [])


def backups_table(backups: Sequence[BackupInfo]) -> Table:
    table = Table(title="Backups, oldest first")
    for heading in ("name", "made", "items", "size", "encoder", "dimension"):
        table.add_column(heading, overflow="fold")
    for info in backups:
        made = f"{datetime.fromtimestamp(info.created_at, UTC):%Y-%m-%d %H:%M} UTC"
        identity = info.identity
        row = (info.name, made, f"{info.items:,}", size(info.bytes), identity["encoder"], identity["dimension"])
        table.add_row(*(Text(value) for value in row))
    return table


def size(count: int) -> str:
    """Binary units."""
    if count < _MiB:
        return f"{count / 1024:.1f} KiB"
    return f"{count / _MiB:,.1f} MiB" if count < 1024 * _MiB else f"{count / _MiB / 1024:,.1f} GiB"


def _age(at: str | None) -> str:
    if at is None:
        return "unknown"
    seconds = max(0.0, time.time() - datetime.fromisoformat(at).timestamp())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
