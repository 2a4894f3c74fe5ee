"""How any client of NATS connects, what its headers look like, and which stream holds a topic.

A topic is a subject. An existing stream that holds the subject is used; otherwise one is created that bears its name
with `_` for dots. NATS headers are printable ASCII, a record's are names and bytes: what does not fit is
percent-encoded (RFC 3986) in name and value, and the header Parakh-Encoded lists those names. Everything else passes
as it is, in both directions. The key travels as the header Parakh-Key.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote, quote_from_bytes, unquote, unquote_to_bytes

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from serve_app.events.brokers.base import BrokerUnavailable, TopicMissing
from serve_app.events.brokers.kafka_client import tls_context
from serve_app.events.settings import BrokerSecurity, BrokerSettings

log = logging.getLogger(__name__)

FAILURES = (nats.errors.Error, OSError, TimeoutError)
"""What a server that is away, slow or unwilling makes a client raise."""

KEY = "Parakh-Key"
ENCODED = "Parakh-Encoded"
RECONNECT_EVERY_S = 0.5
PING_EVERY_S = 10  # a server that hangs is noticed after three of these
_TOKEN = re.compile(r"[!#$&'*+.^_`|~0-9A-Za-z-]+")  # of RFC 9110, without `%`
_PRINTABLE = re.compile(rb"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")


async def connect(settings: BrokerSettings, reconnected: Callable[[], Awaitable[None]] | None = None) -> Client:
    """A connection that mends itself. Raises BrokerUnavailable, and OSError for unreadable files of the settings."""
    security, client = settings.security, Client()
    options: dict[str, Any] = {}
    if (password := security.password()) is not None:
        options |= {"user": security.username, "password": lambda: _secret(client, security, password)}
    if security.tls:
        options["tls"] = tls_context(security)
    scheme = "tls" if security.tls else "nats"
    try:
        await asyncio.wait_for(
            client.connect(
                [f"{scheme}://{server}" for server in settings.servers],
                name=settings.client_id,
                error_cb=_told,
                reconnected_cb=reconnected,
                connect_timeout=max(1, round(settings.connect_timeout_s)),
                reconnect_time_wait=RECONNECT_EVERY_S,  # type: ignore[arg-type]  # a float will do
                max_reconnect_attempts=-1,
                ping_interval=PING_EVERY_S,
                **options,
            ),
            settings.connect_timeout_s,
        )
        _secret(client, security, "")
    except FAILURES as error:
        log.warning("nats: no connection: %r", error)
        await closed(client)
        raise BrokerUnavailable from error
    except BaseException:
        await closed(client)
        raise
    return client


def _secret(client: Client, security: BrokerSecurity, password: str) -> str:
    """nats-py speaks in the clear, whatever it was told, to a server that does not ask for TLS."""
    if security.tls and not client._server_info.get("tls_required"):
        raise ConnectionRefusedError("the server does not speak TLS")
    return password


async def closed(client: Client) -> None:
    try:
        await asyncio.wait_for(client.close(), 5.0)
    except FAILURES as error:
        log.info("nats: left without a farewell: %r", error)


async def _told(error: Exception) -> None:
    log.info("nats: %r", error)


async def stream_of(jetstream: JetStreamContext, settings: BrokerSettings, topic: str) -> str:
    """Name of the stream that holds the topic; created where the settings allow it. Raises TopicMissing."""
    try:
        return await jetstream.find_stream_name_by_subject(topic)
    except NotFoundError as error:
        if not settings.create_topics:
            raise TopicMissing from error
    return await create_stream(jetstream, settings, topic)


async def create_stream(jetstream: JetStreamContext, settings: BrokerSettings, topic: str) -> str:
    """Raises nats.errors.Error; another that creates the same one at the same time does no harm."""
    wanted = StreamConfig(
        name=topic.replace(".", "_"),
        subjects=[topic],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        max_age=settings.nats.max_age_s,
        duplicate_window=_window(settings),
        num_replicas=settings.nats.replicas,
    )
    try:
        await jetstream.add_stream(wanted)
    except BadRequestError as error:  # it exists, perhaps with other limits
        try:
            return await jetstream.find_stream_name_by_subject(topic)
        except APIError:
            raise error from None
    return str(wanted.name)


def _window(settings: BrokerSettings) -> float:
    age = settings.nats.max_age_s
    return min(settings.nats.dedupe_window_s, age) if age else settings.nats.dedupe_window_s


def to_headers(key: bytes | None, headers: Mapping[str, bytes]) -> dict[str, str]:
    given = dict(headers) if key is None else {**headers, KEY: key}
    wire: dict[str, str] = {}
    encoded: list[str] = []
    for name, value in given.items():
        if _TOKEN.fullmatch(name) and _PRINTABLE.fullmatch(value):
            wire[name] = value.decode("ascii")
        else:
            encoded.append(quote(name, safe=""))
            wire[encoded[-1]] = quote_from_bytes(value, safe="")
    if encoded:
        wire[ENCODED] = ",".join(encoded)
    return wire


def from_headers(wire: Mapping[str, str] | None) -> tuple[bytes | None, dict[str, bytes]]:
    """Key and headers; the server's own (Nats-*) are left out."""
    wire = wire or {}
    encoded = set(wire.get(ENCODED, "").split(","))
    headers: dict[str, bytes] = {}
    for name, value in wire.items():
        if name in encoded:
            headers[unquote(name)] = unquote_to_bytes(value)
        elif name != ENCODED and not name.startswith("Nats-"):
            headers[name] = value.encode()
    key = headers.pop(KEY, None)
    return key, headers
