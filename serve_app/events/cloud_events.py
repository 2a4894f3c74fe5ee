"""A broker's message to a CloudEvent 1.0: which mode it is in, strict JSON, and attributes that may be believed.

    too large? -> structured (application/cloudevents+json, or no CloudEvents headers) or
                  binary (headers ce_* of the Kafka binding, ce-* of the NATS binding)
               -> identity (source, id) -> the other attributes -> data

The order matters: from the identity on, a refused event can be told by its name. JSON is read more strictly than the
`cloudevents` package reads it (duplicate keys, NaN, lone surrogates); the attributes are checked by that package.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import unquote

from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.v1.event import CloudEvent

from serve_app.events.message import Message
from serve_app.posts import MAX_CLOCK_SKEW
from serve_app.records.values import EventId

STRUCTURED = "application/cloudevents+json"
MAX_NAME_CHARS = 255  # of an event's id and of its source
MAX_REASON_CHARS = 300
_JSON_TYPE = re.compile(r"(application|text)/([a-z0-9.\-]+\+)?json", re.IGNORECASE)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
# what CloudEvents forbids in a string: control characters, surrogates, noncharacters
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class EventRefused(Exception):
    """This event can never be worked off. `reason` is one sentence in printable ASCII, safe for headers and logs."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = _UNPRINTABLE.sub("?", reason)[:MAX_REASON_CHARS]
        super().__init__(f"{code}: {self.reason}")


@dataclass(frozen=True)
class Envelope:
    """An event whose attributes are sound and whose data nobody has looked at."""

    type: str
    time: datetime | None  # in UTC
    content_type: str  # of the data, without parameters
    attributes: Mapping[str, Any]  # extensions among them
    data: Any  # a JSON value where the content type is JSON, otherwise bytes or text


@dataclass(frozen=True)
class Raw:
    """Attributes and data as they came."""

    attributes: dict[str, Any]
    data: Any


def open_message(message: Message) -> Raw:
    """Raises EventRefused: not JSON, no object, no mode that is known."""
    headers = {name.lower(): value for name, value in message.headers.items()}
    content_type = _media_type(_text(headers.get("content-type", b""), "content-type"))
    if content_type == STRUCTURED:
        return _structured(message.value)
    if content_type.startswith("application/cloudevents"):
        raise EventRefused("not_a_cloud_event", f"Send one event a message as {STRUCTURED}, not {content_type}.")
    attributes = _binary_attributes(headers)
    if not attributes:
        return _structured(message.value)
    if content_type:
        attributes["datacontenttype"] = content_type
    return Raw(attributes, message.value)


def _binary_attributes(headers: Mapping[str, bytes]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for name, value in headers.items():
        if name.startswith("ce_"):
            attributes[name[3:]] = _text(value, name)
        elif name.startswith("ce-"):  # percent-encoded, as in HTTP
            try:
                attributes[name[3:]] = unquote(_text(value, name), errors="strict")
            except UnicodeDecodeError:
                raise EventRefused("not_utf8", f"The header {name} is not UTF-8.") from None
    return attributes


def _structured(value: bytes) -> Raw:
    event = strict_json(value, "The value")
    if not isinstance(event, dict):
        raise EventRefused("not_a_cloud_event", "The value is JSON but not an object: no CloudEvent.")
    attributes = {name: item for name, item in event.items() if item is not None}  # null means absent
    data, encoded = attributes.pop("data", None), attributes.pop("data_base64", None)
    if encoded is None:
        return Raw(attributes, data)
    if data is not None:
        raise EventRefused("not_a_cloud_event", "Give either data or data_base64.")
    if not isinstance(encoded, str):
        raise EventRefused("not_a_cloud_event", "data_base64 must be a string.")
    try:
        return Raw(attributes, base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        raise EventRefused("invalid_base64", "data_base64 is not valid base64.") from None


def identity(raw: Raw) -> EventId:
    """Raises EventRefused where source or id are missing, no strings, too long or unprintable."""
    given = raw.attributes
    if "specversion" not in given and "id" not in given and "type" not in given:
        raise EventRefused(
            "not_a_cloud_event", "The value is JSON but no CloudEvent: it lacks specversion, id and type."
        )
    return EventId(source=_name(given, "source"), id=_name(given, "id"))


def _name(attributes: Mapping[str, Any], name: str) -> str:
    value = attributes.get(name)
    if value is None:
        raise EventRefused("missing_attribute", f"The event lacks the attribute {name}.")
    if not isinstance(value, str) or not value:
        raise EventRefused("invalid_attribute", f"The attribute {name} must be a string that is not empty.")
    if len(value) > MAX_NAME_CHARS:
        raise EventRefused("invalid_attribute", f"The attribute {name} is longer than {MAX_NAME_CHARS} characters.")
    _printable(name, value)
    return value


def envelope(raw: Raw) -> Envelope:
    """Raises EventRefused for attributes that CloudEvents 1.0 does not allow, and data that is not what they say."""
    attributes = raw.attributes
    for name in ("specversion", "type"):
        if name not in attributes:
            raise EventRefused("missing_attribute", f"The event lacks the attribute {name}.")
    for name, value in attributes.items():
        if isinstance(value, str):
            _printable(name, value)
        elif not isinstance(value, bool | int):
            raise EventRefused("invalid_attribute", f"The attribute {name[:64]} must be a string, integer or boolean.")
    time = _time(attributes["time"]) if "time" in attributes else None
    try:  # its own default for a missing time would be the present
        CloudEvent(attributes | {"time": time or datetime.now(UTC)})
    except CloudEventValidationError as error:
        _refuse(error)
    content_type = _media_type(attributes.get("datacontenttype", "application/json"))
    data = raw.data
    if isinstance(data, bytes) and _JSON_TYPE.fullmatch(content_type):
        data = strict_json(data, "The data")
    return Envelope(attributes["type"], time, content_type, attributes, data)


def _refuse(error: CloudEventValidationError) -> NoReturn:
    name, problems = next(iter(error.errors.items()))
    raise EventRefused("invalid_attribute", f"The attribute {name[:64]}: {problems[0]}") from None


def _printable(name: str, value: str) -> None:
    if _FORBIDDEN.search(value):
        raise EventRefused("invalid_attribute", f"The attribute {name[:64]} holds characters that CloudEvents forbids.")


def _time(value: Any) -> datetime:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise EventRefused("invalid_attribute", "The attribute time must be like 2026-11-21T10:00:00Z (RFC 3339).")
    try:
        moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise EventRefused("invalid_attribute", "The attribute time is no date that exists.") from None
    if moment > datetime.now(UTC) + MAX_CLOCK_SKEW:
        raise EventRefused("from_the_future", "The attribute time lies in the future.")
    return moment


def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise EventRefused("not_utf8", f"The header {name[:64]} is not UTF-8.") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise EventRefused("duplicate_key", f"The key {twice[:64]} stands twice in one JSON object.")
    return found


def _no_constant(name: str) -> NoReturn:
    raise EventRefused("not_json", f"{name} is not JSON.")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_constant)


def strict_json(data: bytes, what: str) -> Any:
    """Raises EventRefused for anything that two readers could read differently."""
    try:
        return _DECODER.decode(data.decode())
    except UnicodeDecodeError as error:
        raise EventRefused("not_utf8", f"{what} is not UTF-8: byte {error.start}.") from None
    except RecursionError:
        raise EventRefused("too_deep", f"{what} is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise EventRefused("not_json", f"{what} is not JSON: {error.msg} at character {error.pos}.") from None
    except ValueError:  # an integer of thousands of digits
        raise EventRefused("not_json", f"{what} holds a number that is too long.") from None
