"""What is sent, and what must become of it.

Of a hundred events 2 are clips, 8 view counts, 1 poison, 1 a duplicate (the same event again, or the same post under
another event's name); the rest are posts: texts, and as many with media as asked for. Everything is drawn from one
seed, except the moment of sending, which the ages are counted from.
"""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.posts import make_video
from serve_app.events.brokers.base import OutRecord

SOURCE = "/drill"
POSTS, CLIPS, VIEWS = "parakh.posts", "parakh.clips", "parakh.views"
RATE_HZ = 16_000
CLIP_S = 20
CLIPS_PER_STREAM = 10
_WORDS = (
    *("river", "market", "morning", "school", "train", "cricket", "friend", "window", "tea", "mountain", "song"),
    *("कहानी", "बारिश", "வானம்", "నది", "ਪਿੰਡ", "বৃষ্টি", "lantern", "recipe", "garden", "letter", "summer"),
)

Fate = Literal["verdict", "clip", "views", "dead", "nothing"]


@dataclass(frozen=True)
class Sent:
    """One message as it went to the broker. `subject`: post id, or stream id and start in ms; empty for poison.
    `views`: what a view count said."""

    record: OutRecord
    fate: Fate
    subject: str = ""
    views: int = 0


def clip_subject(stream_id: str, start_s: float) -> str:
    return f"{stream_id}@{round(start_s * 1000)}"


class Traffic:
    """`name` distinguishes the ids of one phase from another's. Iterates over makers, to be called when it is time."""

    def __init__(self, name: str, count: int, media: int, seed: int) -> None:
        self._name = name
        self._rng = random.Random(seed)
        self._posts: list[str] = []
        self._sent: list[Sent] = []
        self._clips = 0
        self._poison = Poison(name)
        self._video = make_video(2) if media else b""
        self._kinds = _kinds(count, media)
        self._rng.shuffle(self._kinds)

    def __iter__(self) -> Iterator[Sent]:
        """Each is made when it is asked for."""
        for number, kind in enumerate(self._kinds):
            sent = self._make(kind, number, datetime.now(UTC))
            self._sent.append(sent)
            yield sent

    def _make(self, kind: str, number: int, now: datetime) -> Sent:
        match kind:
            case "clip":
                return self._clip(number, now)
            case "views" if self._posts:
                return self._view(number, now)
            case "poison":
                return Sent(self._poison.make(number, now), "dead")
            case "again" | "renamed" if self._posts:
                return self._duplicate(kind, number)
            case "media":
                return self._post(number, now, *self._media(number))
            case _:
                return self._post(number, now, "text", None)

    def _post(self, number: int, now: datetime, content_type: str, media: bytes | None) -> Sent:
        post_id = f"{self._name}-{number:06d}"
        self._posts.append(post_id)
        data: dict[str, Any] = {
            "post_id": post_id,
            "author_id": f"author-{number % 50}",
            "content_type": content_type,
            "created_at": now.isoformat(),
            "caption": " ".join(self._rng.choices(_WORDS, k=self._rng.randint(6, 24))),
        }
        if media is not None:
            data["media_base64"] = base64.b64encode(media).decode()
        value = structured(f"{post_id}-created", "parakh.post.created", data)
        return Sent(OutRecord(POSTS, post_id.encode(), value), "verdict", post_id)

    def _media(self, number: int) -> tuple[str, bytes]:
        match number % 5:
            case 0:
                return "video", self._video + _free_box(f"{self._name}-{number}".encode())
            case 1:
                return "audio", wav(tone(3.0, 150 + number % 2000))
            case _:
                return "image", picture(number)

    def _clip(self, number: int, now: datetime) -> Sent:
        stream_id = f"{self._name}-stream-{self._clips // CLIPS_PER_STREAM}"
        start_s = (self._clips % CLIPS_PER_STREAM) * CLIP_S
        self._clips += 1
        sound = wav(tone(CLIP_S, 100 + number % 3000))
        event_id = f"{stream_id}-{start_s}"
        record = clip_in_binary_mode(event_id, stream_id, start_s, now, sound)
        if self._clips % 2:
            data = {"stream_id": stream_id, "start_s": start_s, "created_at": now.isoformat()}
            data["media_base64"] = base64.b64encode(sound).decode()
            record = OutRecord(CLIPS, stream_id.encode(), structured(event_id, "parakh.clip.recorded", data))
        return Sent(record, "clip", clip_subject(stream_id, start_s))

    def _view(self, number: int, now: datetime) -> Sent:
        """Of a post that was not counted yet, so that what must be told of it does not depend on any order."""
        post_id = self._posts.pop(self._rng.randrange(len(self._posts)))
        views = self._rng.choice((10, 1_500, 2_500))
        data = {"post_id": post_id, "views": views, "at": now.isoformat()}
        value = structured(f"{post_id}-views", "parakh.post.viewed", data)
        return Sent(OutRecord(VIEWS, post_id.encode(), value), "views", post_id, views)

    def _duplicate(self, kind: str, number: int) -> Sent:
        """Of one of the last posts: the same event again, or the same post in an event of another name."""
        chosen = self._rng.choice([sent for sent in self._sent if sent.fate == "verdict"][-300:])
        if kind == "again":
            return Sent(chosen.record, "nothing", chosen.subject)
        event = json.loads(chosen.record.value) | {"id": f"{self._name}-renamed-{number}"}
        value = json.dumps(event, ensure_ascii=False).encode()
        return Sent(OutRecord(POSTS, chosen.record.key, value), "nothing", chosen.subject)


def _kinds(count: int, media: int) -> list[str]:
    kinds = ["media"] * media
    for kind, share in (("clip", 0.02), ("views", 0.08), ("poison", 0.01), ("again", 0.005), ("renamed", 0.005)):
        kinds += [kind] * max(1, round(count * share))
    return kinds + ["text"] * (count - len(kinds))


class Poison:
    """Messages that can never be worked off, of every kind in turn; no two have the same bytes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._turn = 0

    def make(self, number: int, now: datetime) -> OutRecord:
        makers = (
            self._not_json,
            self._missing_field,
            self._from_the_future,
            self._undecodable,
            self._too_long,
            self._not_a_number,
            self._no_event,
            self._no_sound,
            self._wrong_topic,
            self._bad_base64,
            self._forbidden_url,
            self._silent_file,
        )
        make = makers[self._turn % len(makers)]
        self._turn += 1
        return make(f"{self._name}-poison-{number}", now)

    def _not_json(self, id_: str, now: datetime) -> OutRecord:
        return OutRecord(POSTS, id_.encode(), f'{{"id": "{id_}", '.encode())

    def _no_event(self, id_: str, now: datetime) -> OutRecord:
        return OutRecord(POSTS, None, json.dumps(["no", "event", id_]).encode())

    def _missing_field(self, id_: str, now: datetime) -> OutRecord:
        return _bad_post(id_, now, author_id=None)

    def _from_the_future(self, id_: str, now: datetime) -> OutRecord:
        return _bad_post(id_, now + timedelta(days=2))

    def _undecodable(self, id_: str, now: datetime) -> OutRecord:
        broken = picture(1)[:300] + id_.encode()
        return _bad_post(id_, now, content_type="image", caption=None, media_base64=base64.b64encode(broken).decode())

    def _bad_base64(self, id_: str, now: datetime) -> OutRecord:
        return _bad_post(id_, now, content_type="image", media_base64="*** no base64 ***")

    def _forbidden_url(self, id_: str, now: datetime) -> OutRecord:
        return _bad_post(id_, now, content_type="image", media_url=f"http://127.0.0.1:9/{id_}.jpg")

    def _wrong_topic(self, id_: str, now: datetime) -> OutRecord:
        data = {"post_id": id_, "views": 5_000, "at": now.isoformat()}
        return OutRecord(POSTS, id_.encode(), structured(id_, "parakh.post.viewed", data))

    def _too_long(self, id_: str, now: datetime) -> OutRecord:
        return clip_in_binary_mode(id_, f"{id_}-stream", 0, now, wav(tone(30, 440)) + id_.encode())

    def _not_a_number(self, id_: str, now: datetime) -> OutRecord:
        samples = tone(2, 440)
        samples[len(samples) // 2] = np.nan
        return clip_in_binary_mode(id_, f"{id_}-stream", 0, now, float_wav(samples) + id_.encode())

    def _no_sound(self, id_: str, now: datetime) -> OutRecord:
        return clip_in_binary_mode(id_, f"{id_}-stream", 0, now, b"this is no sound: " + id_.encode())

    def _silent_file(self, id_: str, now: datetime) -> OutRecord:
        return clip_in_binary_mode(id_, f"{id_}-stream", 0, now, wav(np.zeros(0, np.float32)) + id_.encode())


def _bad_post(id_: str, created_at: datetime, **changes: Any) -> OutRecord:
    data = {
        "post_id": id_,
        "author_id": "author-bad",
        "content_type": "text",
        "created_at": created_at.isoformat(),
        "caption": "never to be judged",
    } | changes
    data = {name: value for name, value in data.items() if value is not None}
    return OutRecord(POSTS, id_.encode(), structured(id_, "parakh.post.created", data))


def structured(event_id: str, type_: str, data: dict[str, Any]) -> bytes:
    event = {"specversion": "1.0", "type": type_, "source": SOURCE, "id": event_id, "data": data}
    return json.dumps(event, ensure_ascii=False).encode()


def clip_in_binary_mode(event_id: str, stream_id: str, start_s: float, now: datetime, sound: bytes) -> OutRecord:
    attributes = {
        "specversion": "1.0",
        "type": "parakh.clip.recorded",
        "source": SOURCE,
        "id": event_id,
        "time": now.isoformat(),
        "streamid": stream_id,
        "starts": str(start_s),
    }
    headers = {f"ce_{name}": value.encode() for name, value in attributes.items()} | {"content-type": b"audio/wav"}
    return OutRecord(CLIPS, stream_id.encode(), sound, headers)


def tone(seconds: float, hertz: float) -> NDArray[np.float32]:
    t = np.arange(int(seconds * RATE_HZ), dtype=np.float32) / RATE_HZ
    return (0.4 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def wav(samples: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((samples * 32_767).astype(np.int16).tobytes())
    return buffer.getvalue()


def float_wav(samples: NDArray[np.float32]) -> bytes:
    """WAVE_FORMAT_IEEE_FLOAT, which can hold what 16 bits cannot: NaN."""
    data = samples.astype("<f4").tobytes()
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 3, 1, RATE_HZ, RATE_HZ * 4, 4, 32
    )
    return head + struct.pack("<4sI", b"data", len(data)) + data


def picture(seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _free_box(content: bytes) -> bytes:
    """An MP4 box that every reader skips: the same film in other bytes."""
    return struct.pack(">I4s", 8 + len(content), b"free") + content
