"""What the drill runs on: the served application with an `events` node, and beside it `parakh consume --attach`."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from serve_app.config import AppConfig
from serve_app.config_file import load_config
from serve_app.launch import ServerFailed, ServerProcess, free_port, serve_environment
from serve_app.models import prepare

ROOT = Path(__file__).parent.parent.parent
MODELS = ROOT / "var" / "demo" / "models"  # shared with the demo: made once
ENCODERS = ("media", "clip", "vggish", "xlmr", "fusion", "wav2vec2")
CONSUMING_S = 90.0
_REPLICA = "ray::ServeReplica:parakh:"


class Grounds:
    def __init__(self, broker: str, records_url: str, scratch: Path) -> None:
        """Raises ServerFailed, and MissingWeights where the local profile's packages are not installed."""
        port = free_port()
        self.file = scratch / "serve.yaml"
        self.file.write_text(yaml.safe_dump(_serve_config(port, _arguments(broker, records_url, scratch))), "utf-8")
        self.config: AppConfig = load_config(self.file)
        prepare(self.config, lambda step, fraction: None)
        self._log_file = scratch / "consume.log"
        self._log = self._log_file.open("ab")
        self.consume: subprocess.Popen[bytes] | None = None
        self.server = ServerProcess(self.file, port=port, log=scratch / "serve.log")

    def start(self) -> None:
        self.server.wait_ready()
        self._address = self._gcs_address()
        self.start_consume()
        deadline = time.monotonic() + CONSUMING_S
        while b"consuming" not in self._log_file.read_bytes():
            if time.monotonic() > deadline or self.consume_died():
                raise ServerFailed(f"parakh consume does not consume\n{self._log_file.read_text()[-3000:]}")
            time.sleep(0.5)

    def consume_died(self) -> bool:
        """By itself: nobody killed it."""
        return self.consume is not None and self.consume.poll() is not None

    def start_consume(self) -> None:
        environment = {name: value for name, value in serve_environment().items() if name != "RAY_ADDRESS"}
        environment |= {"RAY_AUTH_MODE": "token"}  # which a Ray of one machine asks for by default
        command = [sys.executable, "-m", "serve_app.cli", "consume", "--config", str(self.file)]
        self.consume = subprocess.Popen(
            [*command, "--attach", self._address],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
        )

    def replicas(self, node: str) -> list[psutil.Process]:
        """Of this server only."""
        return [process for process in self.server.processes() if _title(process).startswith(f"{_REPLICA}{node}")]

    def stop(self) -> None:
        """In good order: what is in work is finished, and everything that is stored leaves."""
        if self.consume is not None and self.consume.poll() is None:
            self.consume.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.consume.wait(self.config.events.consumer.drain_s + 30)
        self.server.stop()
        self.kill()

    def kill(self) -> None:
        if self.consume is not None:
            self.consume.kill()
            self.consume.wait()
        self.server.kill()
        self._log.close()

    def _gcs_address(self) -> str:
        for process in self.server.processes():
            for argument in _command(process):
                if argument.startswith("--gcs-address="):
                    return argument.partition("=")[2]
        raise RuntimeError("the server's Ray does not say where its control store listens")


@contextmanager
def grounds(broker: str, records_url: str, scratch: Path) -> Iterator[Grounds]:
    subject = Grounds(broker, records_url, scratch)
    try:
        subject.start()
        yield subject
    finally:
        subject.kill()


def _arguments(broker: str, records_url: str, scratch: Path) -> dict[str, Any]:
    """The local profile as it is; only the times after which a death is noticed are shorter than a cluster's."""
    quick = {"health_check_period_s": 2.0}
    return {
        "profile": "local",
        "data_dir": str(scratch),
        "models_dir": str(MODELS),
        "records_url": records_url,
        "http": {"auth": "off"},
        "similarity": {"enabled": False},
        **{node: {"replicas": quick} for node in ("media", "clip", "vggish", "fusion")},
        "xlmr": {"replicas": {"max_ongoing_requests": 16, **quick}},
        "streams": {"replicas": quick},
        "events": {
            "replicas": {"graceful_shutdown_timeout_s": 40.0, **quick},
            "broker": {
                "kind": "kafka",
                "servers": [broker],
                "kafka": {
                    "idempotent": False,  # the drill's broker lacks InitProducerId
                    "partitions": 6,
                    "session_timeout_s": 6.0,
                    "max_message_bytes": 4 * 2**20,
                },
            },
        },
    }


def _serve_config(port: int, arguments: dict[str, Any]) -> dict[str, Any]:
    application = {"name": "parakh", "route_prefix": "/", "import_path": "serve_app.main:build", "args": arguments}
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": port, "request_timeout_s": 75},
        "applications": [application],
    }


def _title(process: psutil.Process) -> str:
    return " ".join(_command(process))


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        return []
