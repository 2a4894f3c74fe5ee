"""`parakh consume` as processes over a real broker and one database, with fake encoders so that they start fast."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.delivery.traffic import clip_in_binary_mode, structured, tone, wav
from deployments.fusion.head import random_head
from deployments.runtime.values import Modality
from serve_app.config import AppConfig
from serve_app.config_file import load_config
from serve_app.events.brokers import OutRecord, ensure_topics, open_producer, open_source
from serve_app.events.message import Message
from serve_app.events.settings import BrokerSettings
from tests.events.servers import free_port

DRAIN_S = 10.0
_CONCLUDED = re.compile(r"parakh_events_total\{[^}]*\} (\S+)")


def text_post(number: int, name: str = "post") -> OutRecord:
    post_id = f"{name}-{number}"
    data = {
        "post_id": post_id,
        "author_id": "system",
        "content_type": "text",
        "created_at": datetime.now(UTC).isoformat(),
        "caption": f"number {number} says hello",
    }
    return OutRecord("parakh.posts", post_id.encode(), structured(post_id, "parakh.post.created", data))


def clip(stream: str, start_s: float, seconds: float = 1.0) -> OutRecord:
    sound = wav(tone(seconds, 200 + start_s))
    return clip_in_binary_mode(f"{stream}-{start_s}", stream, start_s, datetime.now(UTC), sound)


@dataclass
class Consumer:
    process: subprocess.Popen[bytes]
    metrics_url: str
    log: Path

    def concluded(self) -> float:
        """Messages whose outcome this process has stored."""
        with contextlib.suppress(httpx.HTTPError):
            return sum(map(float, _CONCLUDED.findall(httpx.get(self.metrics_url).text)))
        return 0.0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout_s: float) -> tuple[int, float]:
        """Exit code, and how long it took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        return code, time.monotonic() - began


@dataclass
class EventWorld:
    """One broker, one database, and the consumers that share them."""

    folder: Path
    broker_kind: str
    broker: str
    records_url: str
    changes: dict[str, Any] = field(default_factory=dict)  # of the AppConfig, at its top level
    consumers: list[Consumer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.group = f"g{uuid.uuid4().hex[:8]}"
        head = random_head({Modality.VISUAL: 48, Modality.AUDIO: 128, Modality.TEXT: 384}, seed=0, hidden=(16, 8))
        head.save(self.folder / "head")
        self.configure()

    def configure(self, **changes: Any) -> None:
        """For the consumers and commands that start from now on."""
        arguments = {
            "profile": "custom",
            "data_dir": str(self.folder),
            "records_url": self.records_url,
            "clip": {"encoder": {"model": "fake"}},
            "vggish": {"encoder": {"variant": "fake"}},
            "xlmr": {"encoder": {"model": "fake"}},
            "fusion": {"head": {"artefact": str(self.folder / "head")}},
            "similarity": {"enabled": False},
            "streams": {"encoder": {"variant": "fake"}},
            "events": {"broker": self._broker(), "consumer": {"drain_s": DRAIN_S}},
        } | changes
        self.file = self.folder / "serve.yaml"
        self.file.write_text(yaml.safe_dump({"applications": [{"args": arguments}]}), encoding="utf-8")
        self.config: AppConfig = load_config(self.file)

    def _broker(self) -> dict[str, Any]:
        return {
            "kind": self.broker_kind,
            "servers": [self.broker],
            "group": self.group,
            "kafka": {"idempotent": False, "partitions": 6, "session_timeout_s": 6.0},
            "nats": {"ack_wait_s": 5.0},
        }

    @property
    def settings(self) -> BrokerSettings:
        return self.config.events.broker

    def start(self) -> Consumer:
        port = free_port()
        log = self.folder / f"consume-{len(self.consumers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._command("consume", "--metrics-port", str(port)),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self.consumers.append(Consumer(process, f"http://127.0.0.1:{port}/metrics", log))
        return self.consumers[-1]

    def command(self, *arguments: str) -> str:
        """What `parakh ...` prints."""
        done = subprocess.run(self._command(*arguments), check=True, capture_output=True, text=True, timeout=60)
        return done.stdout

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "serve_app.cli", *arguments, "--config", str(self.file)]

    async def send(self, records: Sequence[OutRecord]) -> None:
        await ensure_topics(self.settings, self.settings.topics.incoming)
        producer = open_producer(self.settings)
        await producer.start()
        assert await producer.publish(records) == [None] * len(records)
        await producer.close()

    async def read(self, topic: str, count: int, timeout_s: float = 60.0) -> list[Message]:
        """At least `count` messages of a topic from its beginning, and whatever else comes with them."""
        await ensure_topics(self.settings, [topic])
        reader = self.settings.model_copy(update={"group": f"r{uuid.uuid4().hex[:8]}"})
        source = open_source(reader, [topic])
        await source.start()
        found: list[Message] = []
        try:
            async with asyncio.timeout(timeout_s):
                while (more := await source.take(500, 2.0)) or len(found) < count:
                    found += more
                    await source.done(more)
        finally:
            await source.close()
        return found

    def stop(self) -> None:
        for consumer in self.consumers:
            consumer.kill()


async def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.1)
