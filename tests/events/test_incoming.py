"""What a message must be to be worked off, and what a person is told about one that is not."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote

import pytest
from cloudevents.core.bindings.kafka import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.events.incoming import ClipRecorded, EventReader, Incoming, PostCreated, PostViewed, Refused
from serve_app.events.message import Message
from serve_app.records.values import Subject

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
PAST = "2026-01-02T10:00:00Z"
POST = {"post_id": "p1", "author_id": "a1", "content_type": "text", "created_at": PAST, "caption": "नमस्ते"}
CLIP = {"stream_id": "s1", "start_s": 20.5, "created_at": PAST, "language": "hi"}
VIEWED = {"post_id": "p1", "views": 1000, "at": PAST}
SOUND = b"RIFF\x00\xff\xfe sound"
TYPES = {
    "parakh.posts": "parakh.post.created",
    "parakh.clips": "parakh.clip.recorded",
    "parakh.views": "parakh.post.viewed",
}
READER = EventReader()


def attributes(topic: str, **changes: Any) -> dict[str, Any]:
    found = {"specversion": "1.0", "id": "e1", "source": "/app", "type": TYPES[topic], "time": PAST} | changes
    return {name: value for name, value in found.items() if value is not None}


def message(topic: str, value: bytes, headers: Mapping[str, bytes] | None = None) -> Message:
    return Message(topic, 0, 7, value, NOW, b"p1", headers or {})


def event(topic: str, data: object, **changes: Any) -> Message:
    return message(topic, json.dumps(attributes(topic, **changes) | {"data": data}).encode())


def post(**fields: Any) -> Message:
    return event("parakh.posts", POST | fields)


def video(**fields: Any) -> Message:
    return post(content_type="video", **fields)


def clip(**fields: Any) -> Message:
    return event("parakh.clips", CLIP | fields)


def read(given: Message) -> Incoming:
    return READER.read_now(given)


def refused(given: Message) -> tuple[str, str]:
    found = read(given)
    assert isinstance(found, Refused), found
    assert found.refusal.reason.isascii()
    assert found.refusal.reason.isprintable()
    assert 0 < len(found.refusal.reason) <= 300
    return found.refusal.code, found.refusal.reason


def test_a_post() -> None:
    found = read(event("parakh.posts", POST))
    assert isinstance(found, PostCreated)
    assert (found.event.source, found.event.id) == ("/app", "e1")
    assert (found.post.post_id, found.post.caption, found.media) == ("p1", "नमस्ते", None)


@pytest.mark.parametrize("media", [{"media_url": "https://example.com/a.mp4"}, {"media_base64": "AAEC"}])
def test_a_post_with_media(media: dict[str, str]) -> None:
    found = read(event("parakh.posts", POST | {"content_type": "video"} | media))
    assert isinstance(found, PostCreated)
    assert found.media is not None
    assert (found.media.url, found.media.data) in (("https://example.com/a.mp4", None), (None, b"\x00\x01\x02"))


def test_a_clip_in_json() -> None:
    found = read(event("parakh.clips", CLIP | {"media_base64": base64.b64encode(SOUND).decode()}))
    assert isinstance(found, ClipRecorded)
    assert (found.clip.stream_id, found.clip.start_s, found.clip.language) == ("s1", 20.5, "hi")
    assert found.sound.data == SOUND


def clip_event(**changes: Any) -> CloudEvent:
    given = {
        "type": "parakh.clip.recorded",
        "source": "/app",
        "id": "ü 1",
        "time": datetime(2026, 1, 2, 10, tzinfo=UTC),
        "datacontenttype": "audio/wav",
        "streamid": "s1",
        "starts": "20.5",
        "language": "hi",
    } | changes
    return CloudEvent({name: value for name, value in given.items() if value is not None}, SOUND)


def same_clip(found: Incoming) -> None:
    assert isinstance(found, ClipRecorded), found
    assert found.event.id == "ü 1"
    assert (found.clip.stream_id, found.clip.start_s, found.clip.language) == ("s1", 20.5, "hi")
    assert found.clip.created_at == datetime(2026, 1, 2, 10, tzinfo=UTC)
    assert found.sound.data == SOUND


def test_a_clip_as_the_package_writes_it_for_kafka_in_both_modes() -> None:
    for write in (to_binary, to_structured):
        written = write(clip_event(), JSONFormat())
        same_clip(read(message("parakh.clips", written.value, written.headers)))


def test_a_clip_in_the_binary_mode_of_nats() -> None:
    written = to_binary(clip_event(), JSONFormat())
    headers = {name.replace("ce_", "ce-"): quote(value).encode() for name, value in written.headers.items()}
    headers["content-type"] = b"audio/wav"
    same_clip(read(message("parakh.clips", written.value, headers)))


def test_json_in_binary_mode_is_data_too() -> None:
    headers = {f"ce_{name}": str(value).encode() for name, value in attributes("parakh.views").items()}
    found = read(message("parakh.views", json.dumps(VIEWED).encode(), headers | {"Content-Type": b"application/json"}))
    assert isinstance(found, PostViewed)
    assert (found.count.post_id, found.count.views) == ("p1", 1000)


FUTURE = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

BATCH = {"content-type": b"application/cloudevents-batch+json"}
REFUSED: list[tuple[str, Message, str, str]] = [
    ("empty", message("parakh.posts", b""), "not_json", "not JSON"),
    ("no JSON", message("parakh.posts", b"<post/>"), "not_json", "character 0"),
    ("a list", message("parakh.posts", b"[]"), "not_a_cloud_event", "not an object"),
    ("a bare post", message("parakh.posts", json.dumps(POST).encode()), "not_a_cloud_event", "lacks specversion"),
    ("NaN", message("parakh.posts", b'{"id": NaN}'), "not_json", "NaN"),
    ("infinity", message("parakh.posts", b'{"id": -Infinity}'), "not_json", "Infinity"),
    ("long number", message("parakh.posts", b'{"id": 1' + b"0" * 5000 + b"}"), "not_json", "too long"),
    ("key twice", message("parakh.posts", b'{"id": "a", "id": "b"}'), "duplicate_key", "id"),
    ("deep", message("parakh.posts", b'{"a":' * 100_000), "too_deep", "deeply"),
    ("no UTF-8", message("parakh.posts", b'{"id": "\xff"}'), "not_utf8", "byte 8"),
    ("a raw NUL", message("parakh.posts", b'{"id": "\x00"}'), "not_json", "control character"),
    ("a NUL in the id", event("parakh.posts", POST, id="a\x00b"), "invalid_attribute", "id"),
    ("half a surrogate", message("parakh.posts", b'{"id": "\\ud800", "source": "/a"}'), "invalid_attribute", "id"),
    ("no id", event("parakh.posts", POST, id=None), "missing_attribute", "id"),
    ("empty id", event("parakh.posts", POST, id=""), "invalid_attribute", "id"),
    ("long id", event("parakh.posts", POST, id="x" * 256), "invalid_attribute", "255"),
    ("a number as id", event("parakh.posts", POST, id=7), "invalid_attribute", "id"),
    ("no source", event("parakh.posts", POST, source=None), "missing_attribute", "source"),
    ("no type", event("parakh.posts", POST, type=None), "missing_attribute", "type"),
    ("no specversion", event("parakh.posts", POST, specversion=None), "missing_attribute", "specversion"),
    ("version 0.3", event("parakh.posts", POST, specversion="0.3"), "invalid_attribute", "specversion"),
    ("an object as attribute", event("parakh.posts", POST, trace={"a": 1}), "invalid_attribute", "trace"),
    ("a bad attribute name", event("parakh.posts", POST, **{"Trace-Id": "1"}), "invalid_attribute", "Trace-Id"),
    ("time is no time", event("parakh.posts", POST, time="yesterday"), "invalid_attribute", "time"),
    ("time that is no date", event("parakh.posts", POST, time="2026-02-30T10:00:00Z"), "invalid_attribute", "time"),
    ("time before all", event("parakh.posts", POST, time="0001-01-01T00:00:00+10:00"), "invalid_attribute", "time"),
    ("time to come", event("parakh.posts", POST, time=FUTURE), "from_the_future", "time"),
    ("another type", event("parakh.posts", POST, type="com.example.made"), "unknown_type", "parakh.post.created"),
    ("wrong topic", event("parakh.views", POST, type="parakh.post.created"), "wrong_topic", "parakh.post.viewed"),
    ("unknown topic", Message("other", 0, 0, event("parakh.posts", POST).value, NOW), "unknown_topic", "other"),
    ("a batch", message("parakh.posts", b"[]", BATCH), "not_a_cloud_event", "one event"),
    ("data twice", message("parakh.posts", b'{"data": 1, "data_base64": ""}'), "not_a_cloud_event", "either"),
    ("no data", event("parakh.posts", None), "invalid_request", "lacks its data"),
    ("a list as data", event("parakh.posts", [1]), "invalid_request", "JSON object"),
    ("a field missing", event("parakh.posts", {**POST, "author_id": None}), "invalid_request", "author_id"),
    ("a field unknown", event("parakh.posts", POST | {"likes": 3}), "invalid_request", "likes"),
    ("a huge unknown field", event("parakh.posts", POST | {"é" * 9999: 3}), "invalid_request", "?"),
    ("a post to come", post(created_at=FUTURE), "from_the_future", "created_at"),
    ("a post before all", post(created_at="0001-01-01T00:00:00+10:00"), "invalid_request", "calendar"),
    ("no caption", post(caption=" "), "invalid_request", "caption"),
    ("no media", video(), "media_required", "media"),
    ("media twice", video(media_url="http://a/", media_base64="AAAA"), "invalid_request", "either"),
    ("media is a number", video(media_url=7), "invalid_request", "media_url"),
    ("media from a file", video(media_url="file:///etc/passwd"), "invalid_request", "media_url"),
    ("no base64", video(media_base64="AA=A"), "invalid_base64", "media_base64"),
    ("empty media", video(media_base64=""), "invalid_request", "empty"),
    ("a broken data URL", video(media_url="data:x"), "invalid_request", "data:"),
    ("a clip without sound", event("parakh.clips", CLIP), "media_required", "media_url"),
    ("a clip at infinity", clip(media_base64="AAAA", start_s="inf"), "invalid_request", "start_s"),
    ("a clip before its stream", clip(media_base64="AAAA", start_s=-1), "invalid_request", "start_s"),
    ("views as text", event("parakh.views", VIEWED | {"views": "many"}), "invalid_request", "views"),
    ("too many views", event("parakh.views", VIEWED | {"views": 2**63}), "invalid_request", "views"),
    ("views without a zone", event("parakh.views", VIEWED | {"at": PAST[:-1]}), "invalid_request", "time zone"),
    ("views to come", event("parakh.views", VIEWED | {"at": FUTURE}), "from_the_future", "at"),
    ("a header that is no text", message("parakh.posts", b"{}", {"ce_id": b"\xff"}), "not_utf8", "ce_id"),
    ("a header that decodes to none", message("parakh.posts", b"{}", {"ce-id": b"%ff"}), "not_utf8", "ce-id"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "code", "told"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_with_a_code_and_a_reason(given: Message, code: str, told: str) -> None:
    found = refused(given)
    assert found[0] == code
    assert told in found[1]


def test_a_refusal_knows_the_event_where_its_name_could_be_read() -> None:
    found = read(event("parakh.posts", POST | {"likes": 3}))
    assert isinstance(found, Refused)
    assert found.event is not None
    assert found.event.id == "e1"


def test_a_clip_as_a_sound_file_needs_its_attributes() -> None:
    for missing in ("streamid", "starts"):
        written = to_binary(clip_event(**{missing: None}), JSONFormat())
        assert refused(message("parakh.clips", written.value, written.headers)) == (
            "missing_attribute",
            f"The event lacks the attribute {missing}.",
        )
    written = to_binary(clip_event(), JSONFormat())
    headers = {name: value for name, value in written.headers.items() if name != "ce_time"}
    assert "time" in refused(message("parakh.clips", SOUND, headers))[1]
    assert refused(message("parakh.clips", b"", written.headers))[0] == "media_required"


async def test_what_is_too_large_is_refused_before_it_is_parsed() -> None:
    reader = EventReader(max_bytes=1000)
    found = await reader.read(message("parakh.posts", b"{" * 1001))
    assert isinstance(found, Refused)
    assert found.refusal.code == "too_large"


async def test_media_larger_than_the_cap_is_refused() -> None:
    reader = EventReader(max_bytes=1000)
    sound = base64.b64encode(b"\x00" * 900).decode()
    small = event("parakh.clips", CLIP | {"media_base64": sound})
    assert isinstance(await reader.read(small), Refused)


async def test_a_big_event_leaves_the_loop_to_others() -> None:
    big = video(media_base64="A" * 8 * 2**20)
    reading = asyncio.create_task(READER.read(big))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert isinstance(reading.result(), PostCreated)
    assert turns > 1


GOOD = [
    video(media_base64="AAEC"),
    event("parakh.clips", CLIP | {"media_url": "https://example.com/a.wav"}),
    event("parakh.views", VIEWED),
]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates().map(str) | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(GOOD), st.data())
def test_mutated_bytes_are_read_or_refused(good: Message, data: st.DataObject) -> None:
    value = bytearray(good.value)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(value) - 1))
        value[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not value:
            break
    read(message(good.topic, bytes(value)))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(GOOD), st.data())
def test_mutated_fields_are_read_or_refused(good: Message, data: st.DataObject) -> None:
    fields = json.loads(good.value)
    target = data.draw(st.sampled_from([fields, fields["data"]]))
    name = data.draw(st.sampled_from(sorted(target)) | st.text(max_size=5))
    target[name] = data.draw(JUNK)
    found = read(message(good.topic, json.dumps(fields).encode()))
    if isinstance(found, Refused):
        assert found.refusal.reason.isprintable()


HEADERS = ["ce_id", "ce-id", "ce_source", "ce_type", "ce_time", "ce_specversion", "content-type", "ce_", "ce_Ü"]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(HEADERS) | st.text(), st.binary()), st.binary())
def test_any_headers_and_body_are_read_or_refused(headers: dict[str, bytes], body: bytes) -> None:
    read(message("parakh.clips", body, headers))


@pytest.mark.parametrize(
    ("topic", "data", "key", "subject"),
    [
        ("parakh.posts", POST | {"caption": 7}, b"some author", Subject("post", "p1")),
        ("parakh.clips", CLIP, None, Subject("stream", "s1")),  # without its sound
        ("parakh.posts", {"stream_id": "s1"}, b"p1", Subject("stream", "s1")),
        ("parakh.posts", {"post_id": 7}, b"p1", Subject("post", "p1")),
        ("parakh.views", {"post_id": "no id"}, b"p1", Subject("post", "p1")),
        ("parakh.views", [], b"\xff no id", None),
        ("unknown", {}, b"p1", None),
    ],
)
def test_a_refused_message_tells_what_it_is_about(
    topic: str, data: object, key: bytes | None, subject: Subject | None
) -> None:
    found = read(replace(event("parakh.views" if topic == "unknown" else topic, data), topic=topic, key=key))
    assert isinstance(found, Refused)
    assert found.subject == subject


@pytest.mark.parametrize(("topic", "kind"), [("parakh.posts", "post"), ("parakh.clips", "stream")])
def test_what_cannot_be_opened_is_about_what_its_key_names(topic: str, kind: Literal["post", "stream"]) -> None:
    found = read(replace(message(topic, b"{"), key=b"x1"))
    assert isinstance(found, Refused)
    assert found.subject == Subject(kind, "x1")
