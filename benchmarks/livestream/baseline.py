"""What a company had, and what its team made of it: a consumer with the model in it, results fired and forgotten.

    take (1 or 8) -> WAV to samples -> transformers' own preprocessing and model -> a row each, one transaction for the
    batch -> results sent, nobody waits for them

The model runs in a thread, or a pass over 8 clips would cost the consumer its membership. Nothing here survives a
crash between the row and the result: that is what it does not pay for.
"""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import warnings
import wave
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import asyncpg  # type: ignore[import-untyped]
import numpy as np
import torch
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.livestream.clips import Samples, sounds
from benchmarks.livestream.worker import Setup
from deployments.policy.policy import CATEGORIES
from deployments.runtime.values import SAMPLE_RATE_HZ
from deployments.wav2vec2.random_weights import base_config

_WAIT_MS = 500  # for a batch to fill up
_TABLE = "CREATE TABLE IF NOT EXISTS clip_results (stream_id text, start_s real, body text)"


class Baseline:
    """One message at a time through the eager fp32 model, or batches through the traced one."""

    def __init__(self, setup: Setup, *, batch: int, traced: bool) -> None:
        self._setup = setup
        self._batch, self._traced = batch, traced
        self._topic, self._results = topics(batch)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._sounds = sounds(4)
        self._consuming: asyncio.Task[None] | None = None

    async def start(self) -> None:
        from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

        torch.set_num_threads(1)
        self._extractor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE_HZ, do_normalize=True)
        self._model: Any = _Logits(Wav2Vec2ForSequenceClassification(base_config())).eval()
        if self._traced:
            self._model = _traced(self._model, self._batch)
        await self.alone(self._batch)
        self._store = await open_store(self._setup.records_url)
        self._producer = AIOKafkaProducer(bootstrap_servers=self._setup.broker, enable_idempotence=False)
        await self._producer.start()
        self._consumer = AIOKafkaConsumer(
            self._topic,
            bootstrap_servers=self._setup.broker,
            group_id=f"baseline-{self._batch}",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=4 << 20,
        )
        await self._consumer.start()
        self._consuming = asyncio.create_task(self._consume())

    async def alone(self, count: int) -> None:
        for first in range(0, count, self._batch):
            size = min(self._batch, count - first)
            await self._judged([self._sounds[(first + at) % len(self._sounds)] for at in range(size)])

    async def _consume(self) -> None:
        while True:
            records = await self._take()
            scores = await self._judged([_samples(record.value) for record in records])
            results = [_result(record, row) for record, row in zip(records, scores, strict=True)]
            await self._store.save([(stream, start_s, json.dumps(result)) for stream, start_s, result in results])
            for stream, _, result in results:
                await self._producer.send(self._results, json.dumps(result).encode(), key=stream.encode())

    async def _take(self) -> list[Any]:
        if self._batch == 1:
            return [await self._consumer.getone()]
        found: list[Any] = []
        while not found or len(found) < self._batch:
            polled = await self._consumer.getmany(timeout_ms=_WAIT_MS, max_records=self._batch - len(found))
            if found and not polled:
                break
            found += [record for records in polled.values() for record in records]
        return found

    async def _judged(self, clips: Sequence[Samples]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._pass, clips)

    def _pass(self, clips: Sequence[Samples]) -> Any:
        """(clips, categories) probabilities."""
        inputs = self._extractor(list(clips), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt", padding=True)
        with torch.inference_mode():
            return torch.softmax(self._model(inputs.input_values), -1).numpy()


def topics(batch: int) -> tuple[str, str]:
    """Where it reads, where it writes."""
    return f"livestream.baseline-{batch}", f"livestream.baseline-{batch}.results"


def one_at_a_time(setup: Setup) -> Baseline:
    return Baseline(setup, batch=1, traced=False)


def traced_batches(setup: Setup) -> Baseline:
    return Baseline(setup, batch=8, traced=True)


class Store(Protocol):
    async def save(self, rows: Sequence[tuple[str, float, str]]) -> None:
        """In one transaction."""
        ...


async def open_store(url: str) -> Store:
    return Sqlite(url.removeprefix("sqlite:///")) if url.startswith("sqlite") else await Postgres.open(url)


class Sqlite:
    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, timeout=15)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(_TABLE)

    async def save(self, rows: Sequence[tuple[str, float, str]]) -> None:
        with self._connection:
            self._connection.executemany("INSERT INTO clip_results VALUES (?, ?, ?)", rows)


class Postgres:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, url: str) -> Postgres:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        await connection.execute(_TABLE)
        return cls(connection)

    async def save(self, rows: Sequence[tuple[str, float, str]]) -> None:
        await self._connection.executemany("INSERT INTO clip_results VALUES ($1, $2, $3)", rows)


class _Logits(torch.nn.Module):
    """The model without the rest of its output, which cannot be traced."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(samples).logits
        return logits


def _traced(model: Any, batch: int) -> Any:
    example = torch.randn(batch, SAMPLE_RATE_HZ)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated, and of sizes that only training asks for
        return torch.jit.trace(model, example, check_trace=False)  # type: ignore[no-untyped-call]


def _samples(file: bytes) -> Samples:
    with wave.open(io.BytesIO(file)) as read:
        pcm = np.frombuffer(read.readframes(read.getnframes()), "<i2")
    return pcm.astype(np.float32) / np.float32(32768)


def _result(record: Any, scores: Any) -> tuple[str, float, dict[str, Any]]:
    headers = dict(record.headers)
    stream, start_s = headers["ce_streamid"].decode(), float(headers["ce_starts"])
    named = dict(zip(CATEGORIES, map(float, scores), strict=True))
    return stream, start_s, {"stream_id": stream, "start_s": start_s, "category_scores": named}
