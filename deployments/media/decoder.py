"""Decoding in killable children: bytes in, DecodedMedia out; the caller survives whatever the bytes do.

A few long-lived children (`worker`) take one file each. One that hangs, eats memory or crashes is killed and
replaced, and its file is UndecodableMedia with the reason; every child is replaced after some hundred files.
"""

from __future__ import annotations

import logging
import mmap
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from types import TracebackType
from typing import Literal

from deployments.media import wire
from deployments.media.settings import MediaSettings
from deployments.runtime.errors import NodeUnavailable, TooLarge, UndecodableMedia
from deployments.runtime.values import DecodedMedia, FrameSpec

_log = logging.getLogger(__name__)
Use = Literal["post", "stream"]
_START_S = 60.0  # a child imports PyAV, Pillow and numpy; on a machine under load that takes a while


class MediaDecoder:
    """`decode` may be called from several threads; calls beyond the number of children wait."""

    def __init__(
        self, settings: MediaSettings, frame_spec: FrameSpec, *, worker_module: str = "deployments.media.worker"
    ) -> None:
        self._settings = settings
        self._spec = frame_spec
        self._module = worker_module
        self._rooms = {
            "post": wire.result_bytes(settings, frame_spec),
            "stream": wire.result_bytes(settings.for_streams(), frame_spec),
        }
        self._closed = False
        self._children: queue.LifoQueue[_Child] = queue.LifoQueue()
        for _ in range(settings.decode_workers):
            self._children.put(self._spawn())

    def decode(self, data: bytes, use: Use = "post", max_s: float | None = None) -> DecodedMedia:
        """Of a stream's file only the sound is of use, and it is heard whole; hardly more than `max_s` of it.

        Raises TooLarge, UnsupportedMedia, or UndecodableMedia where nothing of the media can be judged.
        """
        if self._closed:
            raise NodeUnavailable("The media decoder is shut down.")
        if len(data) > self._settings.max_bytes:
            raise TooLarge(f"The file is larger than {self._settings.max_bytes} bytes.")
        if not data:
            raise UndecodableMedia("The file is empty.")
        child = self._children.get()
        try:
            if self._closed:
                raise NodeUnavailable("The media decoder is shut down.")
            if not child.alive:
                child = self._started()
            return child.decode(data, {"use": use, "max_s": max_s}, self._rooms[use], self._settings.decode_wall_s)
        finally:
            self._children.put(self._fit_for_more(child))

    def _fit_for_more(self, child: _Child) -> _Child:
        """The same child, or a new one that starts while nobody waits for it."""
        if child.alive and (self._closed or child.jobs >= self._settings.worker_max_jobs):
            child.kill()
        if child.alive or self._closed:
            return child
        try:
            return self._spawn()
        except OSError:  # out of processes or memory: the next caller tries again
            return child

    def _started(self) -> _Child:
        try:
            return self._spawn()
        except OSError as error:
            raise NodeUnavailable("The media decoder could not start.") from error

    def _spawn(self) -> _Child:
        return _Child(self._module, {"settings": self._settings.model_dump(), "frame_spec": asdict(self._spec)})

    def close(self) -> None:
        """Kills the idle children now and each busy one when its file is done."""
        self._closed = True
        idle: list[_Child] = []
        while True:
            try:
                idle.append(self._children.get_nowait())
            except queue.Empty:
                break
        for child in idle:
            child.kill()
            self._children.put(child)  # a caller that waits for a child learns from this one that all is over

    def __enter__(self) -> MediaDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Child:
    """One process of `worker` and the socket to it."""

    def __init__(self, module: str, hello: dict[str, object]) -> None:
        self.jobs = 0
        self.alive = True
        self._ready = False
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 our own interpreter and module
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                start_new_session=True,  # Ctrl-C in a terminal is the parent's business
            )
        wire.send(self._channel, hello)

    @property
    def pid(self) -> int:
        return self._process.pid

    def decode(self, data: bytes, asked: dict[str, object], room: int, wall_s: float) -> DecodedMedia:
        try:
            self._await_ready()
            return self._job(data, asked, room, wall_s)
        except TimeoutError:
            self.kill()
            raise UndecodableMedia(f"Decoding was stopped: it took longer than {wall_s:g} s.") from None
        except (wire.Broken, OSError, ValueError):  # ValueError: the result's area is not what it was
            raise UndecodableMedia(self._cause_of_death()) from None

    def _await_ready(self) -> None:
        if self._ready:
            return
        try:
            wire.receive(self._channel, deadline=time.monotonic() + _START_S)
        except (wire.Broken, OSError) as error:
            self.kill()
            raise NodeUnavailable("The media decoder could not start.") from error
        self._ready = True

    def _job(self, data: bytes, asked: dict[str, object], room: int, wall_s: float) -> DecodedMedia:
        self.jobs += 1
        source, target = wire.anonymous_file("media"), wire.anonymous_file("decoded")
        try:
            _write_all(source, data)
            wire.fix_size(target, room)
            deadline = time.monotonic() + wall_s
            self._channel.settimeout(wall_s)
            wire.send(self._channel, {"size": len(data), "room": room, **asked}, (source, target))
            answer, _ = wire.receive(self._channel, deadline=deadline)
            if "log" in answer:
                _log.error("decoding raised an unforeseen exception: %s", answer["log"])
            if "error" in answer:
                raise wire.unpack_error(answer)
            with mmap.mmap(target, room, prot=mmap.PROT_READ) as area, memoryview(area) as view:
                return wire.unpack(answer, view, len(data))
        finally:
            os.close(source)
            os.close(target)

    def _cause_of_death(self) -> str:
        try:
            status = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            status = None
        self.kill()
        if status == -signal.SIGXCPU:
            return "Decoding was stopped: it used too much processor time."
        if status in (wire.OUT_OF_MEMORY, -signal.SIGKILL):
            return "Decoding was stopped: it used too much memory."
        return "The media made the decoder crash."

    def kill(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.wait()
        self._channel.close()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _environment() -> dict[str, str]:
    """Nothing of the parent's environment: it may hold secrets. One thread per library."""
    return {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "OPENCV_FOR_THREADS_NUM": "1",
        "LC_ALL": "C.UTF-8",
    }
