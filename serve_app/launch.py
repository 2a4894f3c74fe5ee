"""`parakh serve`: the Ray Serve command line with the settings that were measured to matter.

HAProxy with throughput mode costs 3 to 9 times less CPU a request than Serve's defaults, and only the pair does.
Both are read from the environment when Ray is imported, in every process, so the launcher sets them and execs.
`ServerProcess` is the same server as a child: for the demo, the system tests and the benchmarks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import httpx
import psutil
import yaml

SERVE_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_worker_niceness": "0",  # the default, 15, lets any other process starve the replicas
    "RAY_ADDRESS": "local",  # a Ray of our own: one that runs already was not started with these settings
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # the default, 0.1, is the largest part of an idle server's CPU
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",  # default 100, in every replica
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",  # one machine: nobody needs 30 s to notice
}


def serve_foreground(config: Path, *, data_dir: Path | None = None, port: int | None = None) -> NoReturn:
    """Replace this process by `serve run`; never returns."""
    file = write_config(config, data_dir=data_dir, port=port)
    command = serve_command(file)
    os.execve(command[0], command, serve_environment())  # noqa: S606


def serve_command(config: Path) -> list[str]:
    return [sys.executable, "-m", "ray.serve.scripts", "run", str(config)]


def serve_environment() -> dict[str, str]:
    """What the user has set wins."""
    return {**SERVE_ENVIRONMENT, **os.environ}


def write_config(
    config: Path, *, data_dir: Path | None = None, port: int | None = None, args: Mapping[str, Any] | None = None
) -> Path:
    """The config itself, or a temporary copy with the overrides in it. `args` are merged at their top level."""
    if data_dir is None and port is None and not args:
        return config
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    given = tree["applications"][0].setdefault("args", {})
    given.update(args or {})
    if data_dir is not None:
        given["data_dir"] = str(data_dir.absolute())
    if port is not None:
        tree.setdefault("http_options", {})["port"] = port
    with tempfile.NamedTemporaryFile("w", prefix="parakh-", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(tree, file)
    return Path(file.name)


def _heed_interrupt() -> None:
    """A background job of a shell ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _own_haproxy(base: Path) -> dict[str, str]:
    """HAProxy's fixed ports and files, moved, so that a child server does not disturb another server here."""
    files = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    }
    ports = {"RAY_SERVE_HAPROXY_STATS_PORT": free_port(), "RAY_SERVE_HAPROXY_METRICS_PORT": free_port()}
    return {name: str(base / file) for name, file in files.items()} | {name: str(n) for name, n in ports.items()}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerFailed(Exception):
    """The server's process ended, or was not ready in time; the message ends with its log's last lines."""


class ServerProcess:
    """`serve run` as a child with its log in a file; a context manager that stops what it started."""

    def __init__(self, config: Path, *, port: int, log: Path) -> None:
        """`config` must name `port` in its http_options. Raises ServerFailed where something listens there already."""
        if _listens(port):
            raise ServerFailed(f"something listens on 127.0.0.1:{port} already; stop it, or choose another port")
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._scratch = Path(tempfile.mkdtemp(prefix="ph-", dir="/tmp"))  # Ray adds 57 characters, HAProxy takes 97
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603
                serve_command(config),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**_own_haproxy(self._scratch), **serve_environment()},
                start_new_session=True,  # Ctrl-C in the terminal is ours to pass on
                preexec_fn=_heed_interrupt,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, timeout_s: float = 300.0, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """The body of `/readyz` once it answers 200 with every node ready. Raises ServerFailed."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            tick()
            if self._process.poll() is not None:
                raise ServerFailed(f"the server ended with code {self._process.returncode}\n{self.log_tail()}")
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.get(f"{self.url}/readyz", timeout=10)
                if answer.status_code == 200 and answer.json().get("status") == "ready":
                    return dict(answer.json())
            time.sleep(0.5)
        raise ServerFailed(f"the server was not ready within {timeout_s:.0f} s\n{self.log_tail()}")

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def stop(self, timeout_s: float = 60.0) -> None:
        """Ask for an orderly end, then end whatever is left of the session: Ray gives its processes own groups."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """kill -9 of every process of this server at once, as a power cut would."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """The launcher, Ray's daemons, HAProxy, the replicas: all that is in the server's session."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(process.pid) == self._process.pid:
                    found.append(process)
        return found

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
