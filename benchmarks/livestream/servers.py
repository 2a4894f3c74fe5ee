"""The broker and the database of this run, and the processor time they take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.delivery.servers import NotHere, kafka, postgres

__all__ = ["Server", "database", "kafka"]


class Server:
    """Whoever listens at a port, and its children."""

    def __init__(self, port: int | None) -> None:
        """None: it lives in its client, as SQLite does."""
        self._process = None if port is None else psutil.Process(_listener(port))

    def cpu_s(self) -> float:
        """To the kernel's tick of 10 ms."""
        if self._process is None:
            return 0.0
        own = self._process.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                total += times.user + times.system
        return float(total)


@contextlib.contextmanager
def database(directory: Path) -> Iterator[tuple[str, int | None]]:
    """URL and port of a fresh PostgreSQL at its defaults where its binaries are installed, otherwise of SQLite."""
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(postgres())
        except NotHere:
            yield f"sqlite:///{directory / 'records.db'}", None
            return
        yield url, int(url.rpartition(":")[2].partition("/")[0])


def _listener(port: int) -> int:
    for found in psutil.net_connections("tcp"):
        if found.status == psutil.CONN_LISTEN and tuple(found.laddr)[1:] == (port,) and found.pid is not None:
            return found.pid
    raise LookupError(f"nothing that this user may see listens on port {port}")
