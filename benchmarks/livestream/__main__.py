"""What does one 20 s clip of a livestream cost, from broker to broker, against one message at a time?

wav2vec2-base at its true size with untrained weights, one thread a worker, everyone on the same cores in turns. Costs
are processor time, which other work on the machine disturbs little; wall time is not used. The baseline is a consumer
with the eager fp32 model in it: it takes one message, decodes, infers, writes a row in its own transaction, and fires
its result off. This system's side is the whole event path as `parakh consume` runs it. Of both, the broker's and the
database's time are counted in. Metrics with a bar: livestream_model_vs_one_at_a_time >= 2.3,
livestream_cost_vs_one_at_a_time >= 2.0.

`--quick` takes fewer clips and leaves out the batches of 8 through the traced model: one pass takes half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.livestream import baseline, floor, gate, gpu, served, soak
from benchmarks.livestream.clips import CLIP_S, STREAMS, Sender, sounds, wav
from benchmarks.livestream.rounds import PathCost, Rounds, added
from benchmarks.livestream.servers import Server, database, kafka
from benchmarks.livestream.worker import Setup, Side, Worker
from benchmarks.report import Options, Row, against, median, report
from deployments.runtime.device import cpu_has_bf16
from deployments.wav2vec2.random_weights import base_config

EAGER, TRACED, SERVED = "one_at_a_time", "traced_batches_of_8", "served"
MAKERS: dict[str, Callable[[Setup], Side]] = {
    EAGER: baseline.one_at_a_time,
    TRACED: baseline.traced_batches,
    SERVED: served.Served,
}
WAYS = {EAGER: baseline.topics(1), TRACED: baseline.topics(8), SERVED: (served.TOPIC, served.RESULTS)}


@dataclass(frozen=True)
class Scale:
    """Clips of one round: through the model alone, and through the whole path."""

    rounds: int
    alone: dict[str, int]
    path: dict[str, int]
    as_json: bool  # this system once more, with clips as base64 in JSON
    path_alone: int  # clips through this system's path without a model
    gate_clips: int


FULL = Scale(
    3, {EAGER: 3, TRACED: 8, SERVED: 8}, {EAGER: 3, TRACED: 8, SERVED: 24}, as_json=True, path_alone=240, gate_clips=40
)
QUICK = Scale(1, {EAGER: 1, SERVED: 3}, {EAGER: 2, SERVED: 6}, as_json=False, path_alone=80, gate_clips=6)


@dataclass(frozen=True)
class Measured:
    alone: dict[str, float]  # core-s of a clip through the model, the median of the rounds
    path: dict[str, PathCost]  # all rounds together
    as_json: PathCost | None

    def core_s(self, side: str) -> float:
        """Of one clip through the whole path, broker and database included."""
        return self.path[side].everything / self.path[side].clips

    def worker_s(self, side: str) -> float:
        return self.path[side].spent.total / self.path[side].clips

    def beside_model_s(self, side: str) -> float:
        cost = self.path[side]
        return (cost.spent.total - cost.spent.model) / cost.clips


def main() -> None:
    given = _arguments()
    scale = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory(prefix="parakh-bench-") as scratch:
        (Path(scratch) / "alone").mkdir()
        measured, more = asyncio.run(_measure(scale, Path(scratch), given.soak))
    rows = [*_ratios(measured), *_costs(measured, given.price), *_floors(measured)]
    rows += gate.rows(measured.alone[SERVED], measured.beside_model_s(SERVED), given.speech, scale.gate_clips)
    title = "livestream: core time of a 20 s clip, broker to broker"
    if given.quick:
        title += "\nquick: few clips, no batches of 8"
    report(title, [*rows, *more, *gpu.rows()], Options(given.quick, given.json))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="benchmarks.livestream", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute on two idle cores")
    parser.add_argument("--json", type=Path, default=None, help="also write the rows to this file")
    parser.add_argument("--price", type=float, default=0.05, help="of a core-hour, in USD (default 0.05)")
    parser.add_argument("--soak", type=float, default=0, help="minutes of load afterwards, for the slope of memory")
    parser.add_argument("--speech", type=Path, default=None, help="folder of recorded speech, for the gate's recall")
    return parser.parse_args()


async def _measure(scale: Scale, directory: Path, soak_minutes: float) -> tuple[Measured, list[Row]]:
    with kafka() as address, database(directory) as (url, port):
        rounds = Rounds(address, Server(int(address.rpartition(":")[2])), Server(port))
        await rounds.start([topic for way in WAYS.values() for topic in way])
        setup = Setup(address, url, directory)
        workers = {name: Worker(MAKERS[name], setup) for name in scale.alone}
        try:
            more = [await _path_alone(scale.path_alone, directory / "alone")]  # while the models load
            for worker in workers.values():
                await asyncio.to_thread(worker.ready)
            measured = await _compare(scale, rounds, workers)
            more += await soak.rows(rounds, workers[SERVED], WAYS[SERVED], soak_minutes) if soak_minutes else []
        finally:
            for worker in workers.values():
                worker.stop()
            await rounds.stop()
    return measured, more


async def _path_alone(clips: int, directory: Path) -> Row:
    """The worker's part, on grounds of its own. Between the passes of a model it is a few times dearer: cold caches,
    and a broker that is asked in vain."""
    with kafka() as address, database(directory) as (url, port):
        rounds = Rounds(address, Server(int(address.rpartition(":")[2])), Server(port))
        await rounds.start(WAYS[SERVED])
        worker = Worker(served.path_alone, Setup(address, url, directory))
        try:
            await asyncio.to_thread(worker.ready)
            sender = Sender([wav(one) for one in sounds(4)])
            await rounds.path(worker, WAYS[SERVED], STREAMS, sender)
            spent = (await rounds.path(worker, WAYS[SERVED], clips, sender)).spent
        finally:
            worker.stop()
            await rounds.stop()
    return Row("served_path_without_model", 1000 * spent.total / clips, "core-ms/clip")


async def _compare(scale: Scale, rounds: Rounds, workers: dict[str, Worker]) -> Measured:
    """In turns, so that a neighbour's load falls on all."""
    files = [wav(one) for one in sounds(4)]
    senders = {name: Sender(files) for name in workers}
    alone: dict[str, list[float]] = {name: [] for name in workers}
    path: dict[str, list[PathCost]] = {name: [] for name in workers}
    for _ in range(scale.rounds):
        for name, worker in workers.items():
            spent = await asyncio.to_thread(worker.alone, scale.alone[name])
            alone[name].append(spent.total / scale.alone[name])
        for name, worker in workers.items():
            path[name].append(await rounds.path(worker, WAYS[name], scale.path[name], senders[name]))
    json_sender = Sender(files, as_json=True, prefix="json")
    way, clips = WAYS[SERVED], scale.path[SERVED]
    as_json = await rounds.path(workers[SERVED], way, clips, json_sender) if scale.as_json else None
    return Measured(
        {name: median(found) for name, found in alone.items()},
        {name: added(found) for name, found in path.items()},
        as_json,
    )


def _ratios(measured: Measured) -> list[Row]:
    """Clips a core-second against one message at a time."""
    unit, rows = "clips/core-s", []
    for name in measured.alone:
        label = "livestream" if name == SERVED else name
        if name == EAGER:
            continue
        model, whole, worker = measured.alone[name], measured.core_s(name), measured.worker_s(name)
        rows += [
            against(f"{label}_model_vs_one_at_a_time", 1 / model, unit, 1 / measured.alone[EAGER]),
            against(f"{label}_cost_vs_one_at_a_time", 1 / whole, unit, 1 / measured.core_s(EAGER)),
            against(f"{label}_worker_vs_one_at_a_time", 1 / worker, unit, 1 / measured.worker_s(EAGER)),
        ]
    skipped = sum(cost.skipped for cost in measured.path.values())
    return [*rows, Row("clips_skipped", float(skipped), f"of {sum(c.clips for c in measured.path.values())}")]


def _costs(measured: Measured, price: float) -> list[Row]:
    rows = []
    for name, cost in measured.path.items():
        whole, hours = measured.core_s(name), 1e6 / 3600
        rows += [
            Row(f"{name}_path", whole, "core-s/clip"),
            Row(f"{name}_per_million_clips", whole * hours * price, f"USD at {price:g}/core-h"),
            Row(f"{name}_beside_model", 1000 * measured.beside_model_s(name), "core-ms/clip"),
            Row(f"{name}_event_loop", 1000 * cost.spent.loop / cost.clips, "core-ms/clip"),
            Row(f"{name}_broker", 1000 * cost.broker / cost.clips, "core-ms/clip"),
            Row(f"{name}_database", 1000 * cost.database / cost.clips, "core-ms/clip"),
        ]
    if measured.as_json is not None:
        cost = measured.as_json
        beside = (cost.spent.total - cost.spent.model) / cost.clips
        rows.append(
            against("served_beside_model_json", 1000 * beside, "core-ms/clip", 1000 * measured.beside_model_s(SERVED))
        )
    return rows


def _floors(measured: Measured) -> list[Row]:
    """A clip's arithmetic at the core's best matrix product: what no runtime of that precision goes below."""
    work = floor.flops(base_config(), CLIP_S)
    rows = [Row("clip_arithmetic", work / 1e9, "GFLOP")]
    dtypes = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if cpu_has_bf16() else {})
    floors = {}
    for name, dtype in dtypes.items():
        peak = floor.core_flops_per_s(dtype)
        floors[name] = work / peak
        rows.append(Row(f"core_peak_{name}", peak / 1e9, "GFLOP/s"))
    rows.append(against(f"{EAGER}_model_over_fp32_floor", measured.alone[EAGER], "core-s/clip", floors["fp32"]))
    own = "bf16" if "bf16" in floors else "fp32"
    return [*rows, against(f"{SERVED}_model_over_{own}_floor", measured.alone[SERVED], "core-s/clip", floors[own])]


if __name__ == "__main__":
    main()
