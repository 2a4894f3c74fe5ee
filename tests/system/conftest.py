"""A real server for the system tests: `parakh serve` with the local profile, a fresh data folder, ports of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serve_app.config import AppConfig
from serve_app.launch import ServerProcess, free_port, write_config
from serve_app.models import prepare

ROOT = Path(__file__).parent.parent.parent
LOCAL_CONFIG = ROOT / "cluster" / "serve" / "local.yaml"
MODELS = ROOT / "var" / "demo" / "models"  # shared with the demo: made once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.system)


class Server:
    """A server that can be killed and started again over the same data."""

    def __init__(self, data_dir: Path) -> None:
        self.port = free_port()
        self.data_dir = data_dir
        self.config = write_config(LOCAL_CONFIG, data_dir=data_dir, port=self.port, args={"models_dir": str(MODELS)})
        self.process = self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> ServerProcess:
        self.process = ServerProcess(self.config, port=self.port, log=self.data_dir / "serve.log")
        self.process.wait_ready()
        return self.process

    def replica_pids(self, node: str) -> list[int]:
        """Of this server only: the processes of one node that descend from it."""
        title = f"ray::ServeReplica:parakh:{node}"
        return [process.pid for process in self.process.processes() if _title(process).startswith(title)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    prepare(AppConfig.model_validate({"models_dir": str(MODELS)}), lambda step, fraction: None)
    subject = Server(tmp_path_factory.mktemp("served"))
    yield subject
    subject.process.stop()
