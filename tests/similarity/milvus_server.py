"""The real Milvus server of the wheel `milvus`, for tests: nobody but the test can reach it.

It listens on every address, so it runs in a network namespace of its own, where there is only a loopback; a relay
bridges a Unix socket, which namespaces of networks do not separate, to its port inside. gRPC takes `unix:PATH`.

    tests  --unix:DIR/milvus.sock-->  relay  --127.0.0.1:port-->  milvus (embedded etcd, rocksmq, local files)

Run as a script inside the namespace it is the relay and the server's parent, until its standard input ends: so the
server goes when the tests go, however they go.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

READY = "ready"
START_TIMEOUT_S = 180
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1  # netdevice(7)


class MilvusServerProcess:
    """A server of its own, started by the constructor. Raises Unavailable where that is not possible here."""

    def __init__(self) -> None:
        refusal = _refusal()
        if refusal:
            raise Unavailable(refusal)
        self.directory = Path(tempfile.mkdtemp(prefix="milvus-"))  # short: a socket's path has at most 107 bytes
        self._log = (self.directory / "relay.log").open("wb")
        self._process = subprocess.Popen(
            [*_UNSHARE, sys.executable, __file__, str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline().decode().strip() != READY:
            log = (self.directory / "relay.log").read_text(errors="replace")[-2000:]
            self.stop()
            raise RuntimeError(f"the Milvus server did not start: {log}")

    @property
    def uri(self) -> str:
        return f"unix:{self.directory}/milvus.sock"

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Unavailable(Exception):
    """Why there can be no server here."""


_shared: list[MilvusServerProcess] = []


def shared_server() -> MilvusServerProcess:
    """One for all tests of this process: it takes 10 to 25 s to start."""
    if not _shared:
        _shared.append(MilvusServerProcess())
    return _shared[0]


def stop_shared_server() -> None:
    while _shared:
        _shared.pop().stop()


_UNSHARE = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]


def _refusal() -> str | None:
    try:
        import milvus  # noqa: F401
    except ImportError:
        return "the package milvus (the server in a wheel) is not installed"
    if shutil.which("unshare") is None:
        return "no unshare: the server would listen on every address"
    if subprocess.run([*_UNSHARE, "true"], capture_output=True).returncode:
        return "unshare --net is not permitted here: the server would listen on every address"
    return None


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        name, flags = struct.unpack("16sh", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sh", b"lo", 0)))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", name, flags | IFF_UP))


async def _relay(path: Path, port: int) -> None:
    """Until standard input ends."""

    async def bridge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, back), _pump(there, writer))

    server = await asyncio.start_unix_server(bridge, path)
    print(READY, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, BrokenPipeError):
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    writer.close()


def main(directory: Path) -> None:
    from milvus import MilvusServer

    _raise_loopback()
    server = MilvusServer(wait_for_started=False)
    server.set_base_dir(str(directory / "data"))
    try:
        server.start()
        server.wait_started(timeout=START_TIMEOUT_S * 1000)
        asyncio.run(_relay(directory / "milvus.sock", server.listen_port))
    finally:
        server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # connections may still hang in their relays
