"""Is anything lost or done twice while everything but the broker dies at random? And what do the deaths cost?

Events go through a broker of Kafka's protocol and PostgreSQL to the served application (an `events` node, and one
`parakh consume` process attached to it) with the local profile's own models. First without, then with kill -9 of both
consumers and of the encoders' replicas and with terminated database connections. Without PostgreSQL's binaries the
records lie in SQLite, which the title says, and no connection is terminated.

`--quick`: 1 500 events under kills, under five minutes on two cores. Full: 10 000. Everything that must be 0 makes the
exit code 1 where it is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.delivery.grounds import grounds
from benchmarks.delivery.killers import Killers
from benchmarks.delivery.ledger import Ledger, reckon
from benchmarks.delivery.phases import Field, Phase
from benchmarks.delivery.servers import NotHere, kafka, postgres
from benchmarks.delivery.traffic import Traffic
from benchmarks.report import Row, against, options, percentile, report
from serve_app.records.engine import open_database

SEED = 20


@dataclass(frozen=True)
class Scale:
    calm_events: int
    killed_events: int
    killed_media: int
    kill_every_s: float
    calm_limit_s: float
    killed_limit_s: float


FULL = Scale(2_000, 10_000, 100, kill_every_s=10, calm_limit_s=400, killed_limit_s=2_400)
QUICK = Scale(400, 1_500, 15, kill_every_s=5, calm_limit_s=60, killed_limit_s=170)


def main() -> None:
    given = options(__doc__ or "")
    for signum in (signal.SIGTERM, signal.SIGINT):  # a shell's background job ignores Ctrl-C
        signal.signal(signum, signal.default_int_handler)
    scale = QUICK if given.quick else FULL
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parakh-drill-")))
        broker = stack.enter_context(kafka())
        try:
            records_url, where = stack.enter_context(postgres()), "PostgreSQL"
        except NotHere as reason:
            records_url, where = f"sqlite:///{scratch / 'records.db'}", f"SQLite ({reason})"
        rows, ledger = asyncio.run(drill(broker, records_url, scratch, scale))
    report(f"delivery: nothing lost, nothing twice, under kills; records in {where}", rows, given)
    for note in ledger.notes:
        print(note)
    sys.exit(0 if ledger.clean else 1)


async def drill(broker: str, records_url: str, scratch: Path, scale: Scale) -> tuple[list[Row], Ledger]:
    database = open_database(records_url)
    with grounds(broker, records_url, scratch) as subject:
        group = subject.config.events.broker.group
        field = Field(broker, database, group)
        warm = await field.run(Traffic("warm", 60, 6, SEED), "warm", 60)  # the first calls load what is loaded lazily
        media = scale.killed_media * scale.calm_events // scale.killed_events
        calm = await field.run(Traffic("calm", scale.calm_events, media, SEED + 1), "calm", scale.calm_limit_s)
        killers = Killers(subject, database, SEED, scale.kill_every_s)
        killing = asyncio.create_task(killers.run())
        traffic = Traffic("killed", scale.killed_events, scale.killed_media, SEED + 2)
        killed = await field.run(traffic, "killed", scale.killed_limit_s)
        killing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await killing
        await field.settle()
        await asyncio.to_thread(subject.stop)
    ledger = await reckon([*warm.sent, *calm.sent, *killed.sent], database, broker, group)
    rows = [*_counts(ledger, killed, killers), *await _speeds(field, calm, killed)]
    await database.close()
    return rows, ledger


def _counts(ledger: Ledger, killed: Phase, killers: Killers) -> list[Row]:
    rows = [
        Row("events_sent_under_kills", len(killed.sent), "events"),
        Row("events_lost", ledger.lost, "events"),
        Row("events_duplicated_verdicts", ledger.duplicated, "events"),
        Row("dead_letters_missing", ledger.dead_letters_missing, "messages"),
        Row("downstream_missing", ledger.downstream_missing, "events"),
        Row("downstream_unstable", ledger.downstream_unstable, "events"),
        Row("downstream_duplicates", ledger.downstream_repeated, "events, allowed"),
        Row("outcomes_unexpected", ledger.unexpected, "events"),
        Row("offsets_behind", ledger.offsets_behind, "messages"),
        Row("outbox_waiting", ledger.outbox_waiting, "events"),
        Row("consumers_died_alone", killers.died_alone, "processes"),
    ]
    return rows + [Row(f"kills_{kind}", count, "kills") for kind, count in killers.kills.items()]


async def _speeds(field: Field, calm: Phase, killed: Phase) -> list[Row]:
    """With kills, against without."""
    rows = [against("events_per_second_under_kills", killed.per_second, "events/s", calm.per_second)]
    ages, calm_ages = await field.ages_s(killed), await field.ages_s(calm)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        rows.append(against(f"age_{name}_under_kills", percentile(ages, share), "s", percentile(calm_ages, share)))
    return rows


if __name__ == "__main__":
    main()
