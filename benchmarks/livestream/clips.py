"""The clips: 20 s sounds made by arithmetic, as WAV files in CloudEvents. What a clip sounds like changes no cost."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from deployments.policy.policy import CATEGORIES
from deployments.runtime.stand_in_sounds import sound
from deployments.runtime.values import SAMPLE_RATE_HZ
from serve_app.events.incoming import CLIP_RECORDED
from serve_app.streams.pcm import Pcm, as_wav

CLIP_S = 20.0
STREAMS = 8
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class ClipMessage:
    """One clip as it lies at the broker."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    identity: tuple[str, float]


def sounds(count: int, seconds: float = CLIP_S) -> list[Samples]:
    random = np.random.default_rng(7)
    return [sound(CATEGORIES[at % len(CATEGORIES)], seconds, random) for at in range(count)]


def wav(samples: Samples) -> bytes:
    return as_wav((samples * 32767).astype("<i2").tobytes(), Pcm("s16le", SAMPLE_RATE_HZ))


class Sender:
    """Clips of `STREAMS` streams in turn, each stream's one after the other."""

    def __init__(self, files: list[bytes], *, as_json: bool = False, prefix: str = "stream") -> None:
        self._files = files
        self._prefix = prefix
        self._as_json = as_json  # base64 within JSON, instead of the file itself
        self._sent = 0

    def next(self) -> ClipMessage:
        number, self._sent = self._sent, self._sent + 1
        stream, start_s = f"{self._prefix}-{number % STREAMS}", CLIP_S * (number // STREAMS)
        file = self._files[number % len(self._files)]
        message = _json(stream, start_s, file) if self._as_json else _binary(stream, start_s, file)
        return ClipMessage(stream.encode(), message[0], message[1], (stream, start_s))


def _binary(stream: str, start_s: float, file: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    fields = {"streamid": stream, "starts": f"{start_s:g}", "time": _now(), "type": CLIP_RECORDED, **_event()}
    headers = [(f"ce_{name}", value.encode()) for name, value in fields.items()]
    return file, [*headers, ("content-type", b"audio/wav")]


def _json(stream: str, start_s: float, file: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    data = {
        "stream_id": stream,
        "start_s": start_s,
        "created_at": _now(),
        "media_base64": base64.b64encode(file).decode(),
    }
    event = {**_event(), "type": CLIP_RECORDED, "data": data}
    return json.dumps(event).encode(), [("content-type", b"application/cloudevents+json")]


def _event() -> dict[str, str]:
    return {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/benchmark"}


def _now() -> str:
    return datetime.now(UTC).isoformat()
