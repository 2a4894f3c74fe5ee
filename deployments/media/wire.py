"""What parent and decoding child say to each other: length-prefixed JSON over a socket pair, arrays in shared memory.

A job carries two file descriptors: the media's bytes and an empty area for the result, both without a name. The
answer is JSON, never pickle: a child that hostile media has taken over must not be able to run code in its parent.
"""

from __future__ import annotations

import array
import fcntl
import json
import math
import os
import socket
import struct
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.media.settings import MediaSettings
from deployments.runtime.errors import InvalidInput, TooLarge, UndecodableMedia, UnsupportedMedia
from deployments.runtime.values import (
    SAMPLE_RATE_HZ,
    ContentType,
    DecodedMedia,
    FrameSpec,
    ModalityStatus,
    SoundBlock,
    Status,
)

OUT_OF_MEMORY = 77
"""Exit status of a child that ran out of memory."""
SIGNATURE_BYTES = 32
_LENGTH = struct.Struct("!I")
_MAX_MESSAGE = 2**20
_ERRORS: dict[str, type[InvalidInput]] = {kind.code: kind for kind in (TooLarge, UndecodableMedia, UnsupportedMedia)}


class Broken(Exception):
    """The other side is gone, or what it said makes no sense."""


def send(channel: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    body = json.dumps(message).encode()
    payload = _LENGTH.pack(len(body)) + body
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sent = channel.sendmsg([payload], rights)
    channel.sendall(payload[sent:])


def receive(
    channel: socket.socket, descriptors: int = 0, *, deadline: float = math.inf
) -> tuple[dict[str, Any], list[int]]:
    """Raises Broken at the end of the stream, TimeoutError where the whole message is not there at `deadline`.

    The deadline is a time of `time.monotonic()` and holds for the message, not for each of its bytes.
    """
    _wait_until(channel, deadline)
    head, received, _, _ = socket.recv_fds(channel, _LENGTH.size, descriptors)
    try:
        head += _exactly(channel, _LENGTH.size - len(head), deadline) if head else b""
        if not head:
            raise Broken("closed")
        (length,) = _LENGTH.unpack(head)
        if length > _MAX_MESSAGE:
            raise Broken("message too long")
        message = json.loads(_exactly(channel, length, deadline))
        if not isinstance(message, dict) or len(received) != descriptors:
            raise Broken("not a message")
    except (Broken, ValueError, RecursionError) as error:
        for descriptor in received:
            os.close(descriptor)
        raise Broken(str(error)) from error
    return message, received


def _wait_until(channel: socket.socket, deadline: float) -> None:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    channel.settimeout(None if left_s == math.inf else left_s)


def _exactly(channel: socket.socket, length: int, deadline: float) -> bytes:
    chunks = []
    while length:
        _wait_until(channel, deadline)
        chunk = channel.recv(min(length, 2**16))
        if not chunk:
            raise Broken("closed")
        chunks.append(chunk)
        length -= len(chunk)
    return b"".join(chunks)


def anonymous_file(name: str) -> int:
    """A descriptor of memory without a name in any directory."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def fix_size(descriptor: int, size: int) -> None:
    """For good: a child that could shrink what its parent has mapped would kill the parent (SIGBUS)."""
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def result_bytes(settings: MediaSettings, spec: FrameSpec) -> int:
    """The most that one file can become; untouched pages cost nothing."""
    frames = max(settings.max_frames, settings.min_animation_frames) * spec.crop * spec.crop * 3
    return frames + (math.ceil(settings.max_sound_s) + 1) * SAMPLE_RATE_HZ * 4 + 64


def pack(media: DecodedMedia, area: memoryview) -> dict[str, Any]:
    """Frames first, then sound at the next multiple of 4, laid into `area`; everything else into the message."""
    frames, sound = media.frames, media.sound
    offset = 0
    if frames is not None:
        np.frombuffer(area, np.uint8, frames.nbytes)[:] = frames.ravel()
        offset = frames.nbytes
    offset = (offset + 3) // 4 * 4
    if sound is not None:
        np.frombuffer(area, np.float32, sound.size, offset)[:] = sound
    return {
        "content_type": media.content_type,
        "container": media.container,
        "sha256": media.sha256,
        "sha1": media.sha1,
        "md5": media.md5,
        "duration_s": media.duration_s,
        "visual": asdict(media.visual),
        "audio": asdict(media.audio),
        "frame_times_s": None if media.frame_times_s is None else [float(t) for t in media.frame_times_s],
        "frame_side": None if frames is None else frames.shape[1],
        "sound_blocks": [[block.start_s, block.first_sample, block.samples] for block in media.sound_blocks],
        "samples": None if sound is None else len(sound),
        "signatures": _pack_signatures(media),
    }


def unpack(message: dict[str, Any], area: memoryview, size_bytes: int) -> DecodedMedia:
    """Copies the arrays out of the shared area: the child can no longer change them. Raises Broken on nonsense."""
    try:
        return _unpack(message, area, size_bytes)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Broken("the child's answer makes no sense") from error


def _unpack(message: dict[str, Any], area: memoryview, size_bytes: int) -> DecodedMedia:
    times, side, samples = message["frame_times_s"], message["frame_side"], message["samples"]
    blocks = tuple(SoundBlock(float(start), int(first), int(count)) for start, first, count in message["sound_blocks"])
    frames: NDArray[np.uint8] | None = None
    offset = 0
    if times is not None:
        offset = len(times) * side * side * 3
        frames = np.frombuffer(area[:offset], np.uint8).reshape(len(times), side, side, 3).copy()
    offset = (offset + 3) // 4 * 4
    if sum(block.samples for block in blocks) != (samples or 0) or (samples or 0) < 0:
        raise ValueError("blocks and samples differ")
    sound = None if samples is None else np.frombuffer(area, np.float32, samples, offset).copy()
    return DecodedMedia(
        content_type=ContentType(message["content_type"]),
        container=str(message["container"]),
        sha256=str(message["sha256"]),
        sha1=str(message["sha1"]),
        md5=str(message["md5"]),
        size_bytes=size_bytes,
        duration_s=message["duration_s"],
        visual=_status(message["visual"]),
        audio=_status(message["audio"]),
        frames=frames,
        frame_times_s=None if times is None else np.asarray(times, np.float32),
        sound=sound,
        sound_blocks=blocks,
        **_unpack_signatures(message["signatures"]),
    )


def _pack_signatures(media: DecodedMedia) -> list[tuple[str, int, float]] | None:
    """(hex, quality, second) of each."""
    hashes, quality, times = media.pdq_hashes, media.pdq_quality, media.pdq_times_s
    if hashes is None or quality is None or times is None:
        return None
    return [(one.tobytes().hex(), int(q), float(t)) for one, q, t in zip(hashes, quality, times, strict=True)]


def _unpack_signatures(rows: list[tuple[str, int, float]] | None) -> dict[str, Any]:
    if rows is None:
        return {}
    hashes = np.frombuffer(b"".join(bytes.fromhex(text) for text, _, _ in rows), np.uint8)
    quality = [int(q) for _, q, _ in rows]
    if not all(0 <= q <= 100 for q in quality):
        raise ValueError("quality out of range")
    return {
        "pdq_hashes": hashes.reshape(len(rows), SIGNATURE_BYTES),
        "pdq_quality": np.array(quality, np.uint8),
        "pdq_times_s": np.array([float(t) for _, _, t in rows], np.float32),
    }


def _status(fields: dict[str, Any]) -> ModalityStatus:
    return ModalityStatus(**{**fields, "status": Status(fields["status"])})


def pack_error(error: InvalidInput) -> dict[str, Any]:
    return {"error": error.code, "message": str(error)}


def unpack_error(message: dict[str, Any]) -> InvalidInput:
    kind = _ERRORS.get(str(message["error"]), UndecodableMedia)
    return kind(str(message.get("message") or "")[:300] or None)
