"""What may come in: a message to a typed event, or to a refusal that a person can act on. Nothing else is raised.

parakh.posts  parakh.post.created   data: the fields of POST /v1/posts, media by URL or base64
parakh.clips  parakh.clip.recorded  data: a clip's fields and its sound by URL or base64; or the sound itself as
                                    data (datacontenttype audio/*) and the fields as attributes
parakh.views  parakh.post.viewed    data: post_id, views, at
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from deployments.runtime.errors import InvalidInput
from serve_app.events.cloud_events import Envelope, EventRefused, Raw, envelope, identity, open_message
from serve_app.events.message import Message
from serve_app.events.settings import TopicNames
from serve_app.http.body import decode_base64, decode_data_url, is_data_url, off_loop_if_big
from serve_app.http.errors import invalid_from
from serve_app.http.intake import check_shape
from serve_app.http.submission import MAX_URL_CHARS
from serve_app.posts import Frozen, Id, MediaSource, Moment, Post
from serve_app.records.values import EventId, Refusal, Subject, ViewCount, subject_of
from serve_app.streams.values import Clip

POST_CREATED = "parakh.post.created"
CLIP_RECORDED = "parakh.clip.recorded"
POST_VIEWED = "parakh.post.viewed"
MAX_EVENT_BYTES = 50 * 1024 * 1024
MAX_CAPTION_CHARS = 100_000
_URL = re.compile(r"https?://[^\s\x00-\x20\x7f]+", re.IGNORECASE)
_CLIP_ATTRIBUTES = {"streamid": "stream_id", "starts": "start_s", "language": "language"}
_FUTURE = "lies in the future"
Model = TypeVar("Model", bound=Frozen)


@dataclass(frozen=True)
class PostCreated:
    event: EventId
    post: Post
    media: MediaSource | None


@dataclass(frozen=True)
class ClipRecorded:
    event: EventId
    clip: Clip
    sound: MediaSource


@dataclass(frozen=True)
class PostViewed:
    event: EventId
    count: ViewCount


@dataclass(frozen=True)
class Refused:
    event: EventId | None  # None: not even its name could be read
    refusal: Refusal
    subject: Subject | None = None  # None: neither its data nor its topic and key tell


Incoming = PostCreated | ClipRecorded | PostViewed | Refused


class _Viewed(Frozen):
    post_id: Id
    views: int = Field(ge=0, le=2**63 - 1, strict=True)
    at: Moment


class EventReader:
    """`topics`: names that differ from the table above."""

    def __init__(
        self,
        topics: TopicNames = TopicNames(),  # noqa: B008
        *,
        max_bytes: int = MAX_EVENT_BYTES,
        max_caption_chars: int = MAX_CAPTION_CHARS,
    ) -> None:
        self._topics = {topics.posts: POST_CREATED, topics.clips: CLIP_RECORDED, topics.views: POST_VIEWED}
        self._max_bytes = max_bytes
        self._max_caption_chars = max_caption_chars

    async def read(self, message: Message) -> Incoming:
        """`read_now`, in a thread where the message is big."""
        return await off_loop_if_big(len(message.value), self.read_now, message)

    def read_now(self, message: Message) -> Incoming:
        """Never raises on account of the message."""
        event: EventId | None = None
        raw: Raw | None = None
        try:
            if len(message.value) > self._max_bytes:
                raise EventRefused("too_large", f"The value is larger than {self._max_bytes} bytes.")
            raw = open_message(message)
            event = identity(raw)
            return self._typed(event, message.topic, envelope(raw))
        except EventRefused as refused:
            return Refused(event, Refusal(refused.code, refused.reason), self._subject(message, raw))
        except InvalidInput as error:
            found = EventRefused("from_the_future" if _FUTURE in str(error) else error.code, str(error))
            return Refused(event, Refusal(found.code, found.reason), self._subject(message, raw))

    def _subject(self, message: Message, raw: Raw | None) -> Subject | None:
        """Of a refused message: its letter must be found when the post or stream is erased."""
        named = None if raw is None else _named(raw)
        if named is not None or message.topic not in self._topics:
            return named
        key = (message.key or b"").decode("utf-8", "replace")
        return subject_of("stream" if self._topics[message.topic] == CLIP_RECORDED else "post", key)

    def _typed(self, event: EventId, topic: str, found: Envelope) -> Incoming:
        expected = self._topics.get(topic)
        if expected is None:
            raise EventRefused("unknown_topic", f"Nothing is read from the topic {topic}.")
        if found.type != expected:
            known = found.type in self._topics.values()
            code = "wrong_topic" if known else "unknown_type"
            raise EventRefused(code, f"The topic {topic} carries {expected}, not {found.type}.")
        if expected == POST_CREATED:
            return self._post(event, found)
        return self._clip(event, found) if expected == CLIP_RECORDED else self._viewed(event, found)

    def _post(self, event: EventId, found: Envelope) -> PostCreated:
        fields, url, data = _without_media(_object(found))
        post = _validated(Post, fields)
        media = self._source(url, data)
        check_shape(post, media, self._max_caption_chars)
        return PostCreated(event, post, media)

    def _clip(self, event: EventId, found: Envelope) -> ClipRecorded:
        if found.content_type.startswith("audio/"):
            return self._sound_itself(event, found)
        fields, url, data = _without_media(_object(found))
        clip = _validated(Clip, fields)
        sound = self._source(url, data)
        if sound is None:
            raise EventRefused("media_required", "A clip needs its sound: media_url or media_base64.")
        return ClipRecorded(event, clip, sound)

    def _sound_itself(self, event: EventId, found: Envelope) -> ClipRecorded:
        given = found.attributes
        fields = {field: given[name] for name, field in _CLIP_ATTRIBUTES.items() if name in given}
        for name in ("streamid", "starts"):
            if name not in given:
                raise EventRefused("missing_attribute", f"The event lacks the attribute {name}.")
        if found.time is None:
            raise EventRefused(
                "missing_attribute", "The event lacks the attribute time: when its last sample was taken."
            )
        clip = _validated(Clip, fields | {"created_at": found.time})
        if not isinstance(found.data, bytes) or not found.data:
            raise EventRefused("media_required", "The event's data is not a sound file: it must be its bytes.")
        return ClipRecorded(event, clip, MediaSource(data=found.data))

    def _viewed(self, event: EventId, found: Envelope) -> PostViewed:
        viewed = _validated(_Viewed, _object(found))
        return PostViewed(event, ViewCount(viewed.post_id, viewed.views, viewed.at))

    def _source(self, url: str | None, encoded: str | None) -> MediaSource | None:
        if url is not None and encoded is not None:
            raise EventRefused("invalid_request", "Give either media_url or media_base64.")
        if encoded is not None:
            return _bytes(_decoded(encoded, self._max_bytes, "media_base64"), "media_base64")
        if url is None:
            return None
        if is_data_url(url):
            return _bytes(decode_data_url(url, max_bytes=self._max_bytes, param="media_url"), "media_url")
        if len(url) > MAX_URL_CHARS or not _URL.fullmatch(url):
            limit = f"of at most {MAX_URL_CHARS} characters"
            raise EventRefused("invalid_request", f"media_url must be an http or https URL {limit}.")
        return MediaSource(url=url)


def _named(raw: Raw) -> Subject | None:
    """What the data names, however wrong the rest of it is."""
    data = raw.data
    if isinstance(data, bytes):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError):
            data = None
    fields = data if isinstance(data, dict) else {}
    post = subject_of("post", fields.get("post_id"))
    return post or subject_of("stream", fields.get("stream_id") or raw.attributes.get("streamid"))


def _object(found: Envelope) -> dict[str, Any]:
    if isinstance(found.data, dict):
        return found.data
    what = "lacks its data" if found.data is None else "has data that is not a JSON object"
    raise EventRefused("invalid_request", f"The event {what}: {found.type} needs one.")


def _without_media(fields: dict[str, Any]) -> tuple[dict[str, Any], str | None, str | None]:
    """The other fields, media_url, media_base64."""
    rest = dict(fields)
    url, encoded = rest.pop("media_url", None), rest.pop("media_base64", None)
    for name, value in (("media_url", url), ("media_base64", encoded)):
        if value is not None and not isinstance(value, str):
            raise EventRefused("invalid_request", f"{name}: Input should be a valid string")
    return rest, url, encoded


def _validated(model: type[Model], fields: Mapping[str, Any]) -> Model:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid_from(error) from None


def _decoded(text: str, max_bytes: int, name: str) -> bytes:
    try:
        return decode_base64(text, max_bytes=max_bytes, param=name)
    except InvalidInput as error:
        raise EventRefused("too_large" if error.status == 413 else "invalid_base64", str(error)) from None


def _bytes(data: bytes, name: str) -> MediaSource:
    if not data:
        raise EventRefused("invalid_request", f"{name} is empty.")
    return MediaSource(data=data)
