"""What does the served graph cost over its bare models? Whole posts through HTTP against the same code in a loop.

Both sides run the full profile's shapes with random weights over the fixed mix of `benchmarks/posts.py`, decoding
included. The baseline is the same Pipeline over in-process nodes, one process pinned to each core, no HTTP, no records.
The last part feeds one encoder node small items, clean and with 1 % of them poisoned.

`--quick` gives the same rows from less work, and its title says which: the local profile's shapes, one replica of each,
short videos, short runs. Its figures show that the machinery works; those to quote are the full run's.
Under a minute on two cores with modules compiled, as `make setup` leaves them; half of it is the server's start.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml

from benchmarks.posts import VIDEO_S, BenchmarkPost, mix
from benchmarks.report import Row, against, median, options, percentile, report
from deployments.fusion.head import random_head
from deployments.policy.policy import default_policy
from deployments.runtime.encoder import Encoder
from deployments.runtime.node import EncoderNode, NodeSettings
from deployments.runtime.values import Embeddings, Modality, ModelCard, SoundBlock
from deployments.vggish.examples import SoundItem
from deployments.vggish.registry import make_encoder as make_sound_encoder
from deployments.vggish.settings import VggishSettings
from serve_app.config import AppConfig
from serve_app.launch import ServerProcess, free_port
from serve_app.local_nodes import LocalNodes
from serve_app.pipeline import Pipeline
from serve_app.posts import MediaSource, Post

POISON = 0.123


@dataclass(frozen=True)
class Scale:
    """How much is measured, and of which shapes."""

    full_profile: bool  # else the local profile's shapes
    media_s: int  # of each video and sound
    warm_up_s: float
    single_s: float  # one client
    eight_s: float  # eight clients, and the loop
    small_items: int
    poison_rounds: int


FULL = Scale(True, VIDEO_S, warm_up_s=2, single_s=15, eight_s=30, small_items=2_000, poison_rounds=9)
QUICK = Scale(False, media_s=5, warm_up_s=1, single_s=2, eight_s=4, small_items=400, poison_rounds=3)


def main() -> None:
    given = options(__doc__ or "")
    scale = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory(prefix="parakh-bench-") as scratch:
        rows = served(shapes(scale, Path(scratch)), scale, Path(scratch))
    rows += poisoned(scale)
    title = "graph: whole posts, served against looped"
    if given.quick:
        title += f"\nquick: the local profile's shapes, one replica of each, videos of {QUICK.media_s} s"
    report(title, rows, given)


def shapes(scale: Scale, scratch: Path) -> dict[str, Any]:
    """Arguments of AppConfig. Full: CLIP RN50, VGGish and XLM-R large, untrained. Else the local profile's encoders,
    the text one untrained because its weights would have to be prepared. A random fusion head for either."""
    random = {"weights": "random"}
    if scale.full_profile:
        dimensions = {Modality.VISUAL: 2048, Modality.AUDIO: 128, Modality.TEXT: 1024}
        nodes: dict[str, Any] = {
            # one thread a replica and as many as there are cores of the node that half the work falls to
            "clip": {
                "encoder": {"model": "open-clip", "text_tower": False, **random},
                "replicas": {"num_replicas": os.cpu_count() or 1},
            },
            "vggish": {"encoder": {"variant": "vggish", **random}},
            "xlmr": {"encoder": random},
        }
    else:
        dimensions = {Modality.VISUAL: 1024, Modality.AUDIO: 128, Modality.TEXT: 384}
        nodes = {"xlmr": {"encoder": {"weights": "random-small"}}}
    random_head(dimensions, seed=0).save(scratch / "head")
    return {
        "profile": "custom",
        "data_dir": str(scratch),
        "http": {"auth": "off", "request_timeout_s": 60},
        "fusion": {"head": {"artefact": str(scratch / "head")}},
        **nodes,
    }


def served(args: dict[str, Any], scale: Scale, scratch: Path) -> list[Row]:
    port = free_port()
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": port, "request_timeout_s": 75},
        "applications": [{"name": "parakh", "route_prefix": "/", "import_path": "serve_app.main:build", "args": args}],
    }
    file = scratch / "serve.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    with ServerProcess(file, port=port, log=scratch / "serve.log") as server:
        posts = mix(scale.media_s)
        loops = Loops(args, posts, processes=os.cpu_count() or 1)  # they load while the server starts
        server.wait_ready()
        loops.wait_loaded()
        asyncio.run(
            load(server.url, posts, concurrency=4, seconds=scale.warm_up_s)
        )  # first requests pay for lazy imports
        single = asyncio.run(load(server.url, posts, concurrency=1, seconds=scale.single_s))
        eight = asyncio.run(load(server.url, posts, concurrency=8, seconds=scale.eight_s))
        memory = replica_memory(server)
        server.kill()  # nothing of it may run beside the baseline
    looped = loops.run(scale.eight_s)
    rows = [against("graph_vs_loop_throughput", eight.per_second, "posts/s", looped)]
    for name, result in (("c1", single), ("c8", eight)):
        rows.append(Row(f"{name}_posts_per_second", result.per_second, "posts/s"))
        rows.append(Row(f"{name}_p50", median(result.latencies_s) * 1000, "ms"))
        rows.append(Row(f"{name}_p99", percentile(result.latencies_s, 0.99) * 1000, "ms"))
    rows.append(Row("failed_requests", float(single.failed + eight.failed), "requests"))
    return rows + [Row(f"memory_{name}", mib, "MiB USS") for name, mib in memory.items()]


class LoadResult:
    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.failed = 0
        self.per_second = 0.0


async def load(url: str, posts: Sequence[BenchmarkPost], *, concurrency: int, seconds: float) -> LoadResult:
    """Closed loop of `concurrency` clients. Throughput is counted between the first and the last answer that came
    with every client busy, so that neither the empty start nor the emptying end weighs on it."""
    result = LoadResult()
    started = time.perf_counter()
    numbers = iter(range(10**9))
    answered: list[float] = []

    async def client(http: httpx.AsyncClient) -> None:
        while time.perf_counter() - started < seconds:
            number = next(numbers)
            sent = time.perf_counter()
            answer = await send(http, posts[number % len(posts)], f"{concurrency}-{number}-{time.time_ns()}")
            now = time.perf_counter()
            result.latencies_s.append(now - sent)
            result.failed += answer.status_code != 200
            if now - started < seconds:
                answered.append(now)

    async with httpx.AsyncClient(base_url=url, timeout=90) as http:
        await asyncio.gather(*(client(http) for _ in range(concurrency)))
    result.per_second = (len(answered) - 1) / (answered[-1] - answered[0])
    return result


async def send(http: httpx.AsyncClient, post: BenchmarkPost, post_id: str) -> httpx.Response:
    body = {
        "post_id": post_id,
        "author_id": "bench",
        "content_type": post.content_type,
        "caption": post.caption,
        "created_at": datetime.now(UTC).isoformat(),
    }
    if post.media is None:
        return await http.post("/v1/posts", json=body)
    return await http.post("/v1/posts", data={"post": json.dumps(body)}, files={"media": ("media", post.media)})


def replica_memory(server: ServerProcess) -> dict[str, float]:
    """Node -> unique set size in MiB of one replica, the largest where there are several."""
    memory: dict[str, float] = {}
    for process in server.processes():
        title = " ".join(process.cmdline())
        if "ray::ServeReplica:parakh:" in title:
            name = title.split("ray::ServeReplica:parakh:")[1].split()[0].split(".")[0]
            memory[name] = max(memory.get(name, 0.0), process.memory_full_info().uss / 2**20)
    return dict(sorted(memory.items()))


class Loops:
    """The baseline's processes: they load at once, and moderate when told."""

    def __init__(self, args: dict[str, Any], posts: Sequence[BenchmarkPost], processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._loaded = context.Barrier(processes + 1)
        self._seconds: Any = context.Value("d", 0.0)
        self._start = context.Event()
        self._answers: Any = context.Queue()
        cores = sorted(os.sched_getaffinity(0))
        self._processes = [
            context.Process(
                target=_loop,
                args=(args, posts, cores[i], self._loaded, self._start, self._seconds, self._answers),
                daemon=True,
            )
            for i in range(processes)
        ]
        for process in self._processes:
            process.start()

    def wait_loaded(self) -> None:
        self._loaded.wait(timeout=300)

    def run(self, seconds: float) -> float:
        """Posts a second of all processes together."""
        self._seconds.value = seconds
        self._start.set()
        rates = [self._answers.get(timeout=seconds + 120) for _ in self._processes]
        for process in self._processes:
            process.join(timeout=30)
        return float(sum(rates))


def _loop(
    args: dict[str, Any],
    posts: Sequence[BenchmarkPost],
    core: int,
    loaded: Any,
    start: Any,
    seconds: Any,
    answers: Any,
) -> None:
    """One single-core process: the pipeline over in-process nodes, one post after the other."""
    os.sched_setaffinity(0, {core})  # before any thread or child exists: all inherit it
    asyncio.run(_moderate_in_loop(args, posts, loaded, start, seconds, answers))


async def _moderate_in_loop(
    args: dict[str, Any], posts: Sequence[BenchmarkPost], loaded: Any, start: Any, seconds: Any, answers: Any
) -> None:
    nodes = LocalNodes(AppConfig.model_validate(args))
    pipeline = Pipeline(nodes, default_policy())
    for post in posts:
        await _moderate(pipeline, post)
    await asyncio.to_thread(loaded.wait)
    await asyncio.to_thread(start.wait)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds.value or done % len(posts):  # whole rounds of the mix only
        await _moderate(pipeline, posts[done % len(posts)])
        done += 1
    answers.put(done / (time.perf_counter() - started))
    await nodes.close()


async def _moderate(pipeline: Pipeline, post: BenchmarkPost) -> None:
    await pipeline.moderate(
        Post.model_validate(
            {
                "post_id": "loop",
                "author_id": "bench",
                "content_type": post.content_type,
                "caption": post.caption,
                "created_at": datetime.now(UTC),
            }
        ),
        None if post.media is None else MediaSource(data=post.media),
    )


class Poisonable:
    """The small sound encoder, but an item whose first sample is POISON makes the whole batch raise."""

    def __init__(self, *, late: bool) -> None:
        self._encoder: Encoder[SoundItem, Embeddings] = make_sound_encoder(VggishSettings())
        self._late = late  # raise after the forward pass instead of before it

    @property
    def card(self) -> ModelCard:
        return self._encoder.card

    def load(self) -> None:
        self._encoder.load()

    def example(self) -> SoundItem:
        return self._encoder.example()

    def weight(self, item: SoundItem) -> int:
        return self._encoder.weight(item)

    def bucket(self, item: SoundItem) -> None:
        return None

    def encode(self, items: Sequence[SoundItem]) -> Sequence[Embeddings | Exception]:
        poisoned = any(item.samples[0] == np.float32(POISON) for item in items)
        if poisoned and not self._late:
            raise RuntimeError("poison")
        results = self._encoder.encode(items)
        if poisoned:
            raise RuntimeError("poison")
        return results


def poisoned(scale: Scale) -> list[Row]:
    """Throughput of good items with 1 % poisoned ones among them, against none: the median of paired runs' ratios."""
    rows = []
    kinds = {"poisoned_1pct_vs_clean_throughput": False, "poisoned_late_1pct_vs_clean_throughput": True}
    for name, late in kinds.items():
        pairs = []
        for number in range(scale.poison_rounds):
            rates = {}
            for poison in (False, True) if number % 2 else (True, False):  # whoever goes first, half of the time
                rates[poison] = asyncio.run(_feed(Poisonable(late=late), scale.small_items, poison))
            pairs.append((rates[True], rates[False]))
        ratio = median([dirty / clean for dirty, clean in pairs])
        rows.append(Row(name, median([p[0] for p in pairs]), "items/s", median([p[1] for p in pairs]), ratio))
    return rows


async def _feed(encoder: Poisonable, count: int, poison: bool) -> float:
    """Good items a second, 64 callers at a time."""
    node: EncoderNode[SoundItem, Embeddings] = EncoderNode("bench", encoder, NodeSettings(max_batch_weight=8))
    rng = np.random.default_rng(0)
    items = [_sound(rng, poison and i % 100 == 50) for i in range(count)]
    limit = asyncio.Semaphore(64)
    failed = 0

    async def one(item: SoundItem) -> None:
        nonlocal failed
        async with limit:
            try:
                await node.encode(item)
            except RuntimeError:
                failed += 1

    started = time.perf_counter()
    await asyncio.gather(*(one(item) for item in items))
    rate = (count - failed) / (time.perf_counter() - started)
    assert failed == (count // 100 if poison else 0), failed
    await node.close()
    return rate


def _sound(rng: np.random.Generator, poison: bool) -> SoundItem:
    samples = rng.normal(0, 0.1, 15_600).astype(np.float32)
    if poison:
        samples[0] = POISON
    return SoundItem(samples, (SoundBlock(0.0, 0, len(samples)),))


if __name__ == "__main__":
    main()
