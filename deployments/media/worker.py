"""The decoding child: one file at a time, in a process that may be killed at any moment and can reach little.

Started as `python -m deployments.media.worker FD` with a nearly empty environment; imports neither torch nor Ray.
A thread reads the jobs, so that the child notices its parent's death (the socket closes) in the middle of a decode.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import queue
import resource
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployments.media import wire
from deployments.media.decode import decode_in_process
from deployments.media.settings import MediaSettings
from deployments.runtime.errors import InvalidInput, UndecodableMedia
from deployments.runtime.values import DecodedMedia, FrameSpec

Decode = Callable[[bytes, MediaSettings, FrameSpec], DecodedMedia]

_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def serve(descriptor: int, decode: Decode = decode_in_process) -> None:
    """Handles jobs until the socket closes."""
    channel = socket.socket(fileno=descriptor)
    _leave_the_network()
    hello, _ = wire.receive(channel)
    settings, spec = MediaSettings(**hello["settings"]), FrameSpec(**hello["frame_spec"])
    jobs: queue.SimpleQueue[tuple[dict[str, Any], list[int]]] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(channel, jobs), daemon=True).start()
    _give_up_rights(settings)
    wire.send(channel, {"ready": True})
    while True:
        job, descriptors = jobs.get()
        _limit_cpu(settings)
        wire.send(channel, _answer(job, descriptors, settings, spec, decode))


def _read_jobs(channel: socket.socket, jobs: queue.SimpleQueue[tuple[dict[str, Any], list[int]]]) -> None:
    while True:
        try:
            jobs.put(wire.receive(channel, descriptors=2))
        except (wire.Broken, OSError):
            os._exit(0)  # the parent is gone: nobody waits for the answer


def _answer(
    job: dict[str, Any], descriptors: list[int], settings: MediaSettings, spec: FrameSpec, decode: Decode
) -> dict[str, Any]:
    source, target = descriptors
    asked = settings.for_streams(job.get("max_s")) if job.get("use") == "stream" else settings
    try:
        with mmap.mmap(source, int(job["size"]), prot=mmap.PROT_READ) if job["size"] else memoryview(b"") as data:
            media = decode(bytes(data), asked, spec)
        with mmap.mmap(target, int(job["room"])) as area, memoryview(area) as view:
            return wire.pack(media, view)
    except InvalidInput as error:
        return wire.pack_error(error)
    except MemoryError:
        os._exit(wire.OUT_OF_MEMORY)  # a process that ran out of memory is not used again
    except Exception as error:  # noqa: BLE001 the edge of the process: hostile media may raise anything
        return {**wire.pack_error(UndecodableMedia()), "log": f"{type(error).__name__}: {error}"[:1000]}
    finally:
        os.close(source)
        os.close(target)


def _leave_the_network() -> None:
    """Best effort: containers often forbid new namespaces. Needs a process with one thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _give_up_rights(settings: MediaSettings) -> None:
    os.umask(0o077)
    with contextlib.suppress(OSError):  # where the machine runs out of memory this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    limits = {
        resource.RLIMIT_AS: settings.decode_memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,  # no file can be written
        resource.RLIMIT_NOFILE: 64,
    }
    for name, limit in limits.items():
        resource.setrlimit(name, (limit, limit))


def _limit_cpu(settings: MediaSettings) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + settings.decode_cpu_s)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def main(decode: Decode = decode_in_process) -> None:
    serve(int(sys.argv[1]), decode)


if __name__ == "__main__":
    main()
