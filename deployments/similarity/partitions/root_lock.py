"""One owner per root directory: an exclusive lock that the operating system drops with its process, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from deployments.runtime.errors import NodeUnavailable

_RETRY_S = 0.1


class RootLocked(NodeUnavailable):
    message = "Another process owns the similarity directory."


class RootLock:
    """Held from construction to `release`. Local disks only: flock over NFS is not to be trusted.

    Raises RootLocked, naming the owner's pid, where another process still holds it after `wait_s`.
    """

    def __init__(self, path: Path, wait_s: float = 0.0) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait_s
        while not self._taken():
            if time.monotonic() >= deadline:
                owner = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(self._file)
                raise RootLocked(f"The similarity directory {path.parent} is owned by the process with pid {owner}.")
            time.sleep(_RETRY_S)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
