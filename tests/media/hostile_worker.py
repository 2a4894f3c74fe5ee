"""A decoding child whose decoder misbehaves on command: started by tests in place of the real one."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time
from pathlib import Path

from deployments.media import worker
from deployments.media.decode import decode_in_process
from deployments.media.settings import MediaSettings
from deployments.runtime.errors import UndecodableMedia
from deployments.runtime.values import DecodedMedia, FrameSpec


def decode(data: bytes, settings: MediaSettings, spec: FrameSpec) -> DecodedMedia:
    command, _, argument = data.partition(b":")
    if command == b"hang":
        time.sleep(3600)
    if command == b"spin":
        while True:
            pass
    if command == b"eat":
        hoard = []
        while True:
            hoard.append(bytearray(2**26))
    if command == b"segfault":
        ctypes.string_at(0)
    if command == b"drip":
        _drip()
    if command == b"raise":
        raise RuntimeError(argument.decode())
    if command == b"tell":
        raise UndecodableMedia(_told(argument.decode()))
    return decode_in_process(data, settings, spec)


def _told(what: str) -> str:
    match what:
        case "environment":
            return ",".join(sorted(os.environ))
        case "modules":
            return ",".join(name for name in ("torch", "ray", "cv2") if name in sys.modules)
        case "pid":
            return str(os.getpid())
        case "shrink":
            return _shrink("memfd:decoded")
        case _:
            return _attempt(what)


def _shrink(name: str) -> str:
    """Takes the area for the result from under the parent's feet."""
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink() and name in os.readlink(link):
            try:
                os.ftruncate(int(link.name), 0)
            except OSError as error:
                return f"refused: {type(error).__name__}"
            return "done"
    return "there is no such file"


def _drip() -> None:
    """An answer that comes byte by byte and never ends."""
    channel = socket.socket(fileno=os.dup(int(sys.argv[1])))
    channel.sendall((1000).to_bytes(4, "big"))
    while True:
        time.sleep(0.05)
        channel.sendall(b" ")


def _attempt(what: str) -> str:
    try:
        if what.startswith("write "):
            Path(what[6:]).write_bytes(b"x" * 100)
        if what.startswith("connect "):
            socket.create_connection(("127.0.0.1", int(what[8:])), timeout=2).close()
    except OSError as error:
        return f"refused: {type(error).__name__}"
    return "done"


if __name__ == "__main__":
    worker.main(decode)
