"""One signed POST to one endpoint, and what its answer means (Standard Webhooks 1.0).

    secrets from their file -> webhook-id, -timestamp, -signature (one for each secret) -> addresses checked
    -> connect to a checked address -> status: 2xx delivered, 410 gone, all else failed

The webhook-id is the event's id and the same in every attempt: the receiver's key against duplicates. Connections are
kept per endpoint; the name is resolved and checked before each post all the same. The answer's body is read to a
small cap and thrown away: nothing of it reaches a log.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from standardwebhooks import Webhook

from deployments.media.guarded_http import Resolver, exchange, system_resolver
from deployments.media.url_guard import IPAddress, IPNetwork, Target, check_addresses, is_public, parse_url
from deployments.runtime.errors import FetchFailed, UrlRefused
from serve_app.events.cloud_events import STRUCTURED
from serve_app.events.webhook_settings import URL_RULES, WebhookEndpoint

log = logging.getLogger(__name__)
MAX_ANSWER_BYTES = 16 * 1024  # beyond it the connection is closed
MAX_DRAIN_S = 1.0
MAX_RETRY_AFTER_S = 24 * 3600.0
SECRET_BYTES = range(24, 65)  # the specification's range
_PEER = "The endpoint"
_SECRET = re.compile(r"whsec_[A-Za-z0-9+/]+={0,2}")


class SecretUnusable(Exception):
    """The message names the file and never holds any of it."""


@dataclass(frozen=True)
class Answer:
    """What became of one attempt. `error` is None where it was delivered."""

    error: str | None
    status: int | None = None  # None: no answer
    retry_after_s: float | None = None

    @property
    def gone(self) -> bool:
        """The endpoint wants nothing more, ever."""
        return self.status == 410


class SigningSecrets:
    """The secrets of one endpoint, read again when their file changes; a broken change leaves the last good ones."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._signers: list[Webhook] = []

    def __repr__(self) -> str:
        return f"SigningSecrets({self._file})"

    def signature(self, event_id: str, at: datetime, body: bytes) -> str:
        """One for each secret, separated by spaces. Raises SecretUnusable."""
        text = body.decode()
        return " ".join(signer.sign(event_id, at, text) for signer in self._current())

    def _current(self) -> list[Webhook]:
        try:
            found = self._file.stat()
            if (seen := (found.st_mtime_ns, found.st_size)) != self._seen:
                self._signers = _signers(self._file)
                self._seen = seen
        except (OSError, SecretUnusable) as error:
            told = str(error) if isinstance(error, SecretUnusable) else f"The secret file {self._file} cannot be read."
            if not self._signers:
                raise SecretUnusable(told) from None
            log.warning("%s The secrets read before stay in use.", told)
        return self._signers


def _signers(file: Path) -> list[Webhook]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    signers = []
    for line in filter(None, lines):
        if not _SECRET.fullmatch(line):
            raise SecretUnusable(f"A line of the secret file {file} is not `whsec_` and base64.")
        secret = base64.b64decode(line.removeprefix("whsec_").rstrip("=") + "==")
        if len(secret) not in SECRET_BYTES:
            raise SecretUnusable(f"A secret in {file} has {len(secret)} bytes: it needs 24 to 64.")
        signers.append(Webhook(secret))
    if not signers:
        raise SecretUnusable(f"The secret file {file} is empty.")
    return signers


class WebhookClient:
    """Of one endpoint; safe for concurrent posts. `transport` replaces the wire in tests."""

    def __init__(
        self,
        endpoint: WebhookEndpoint,
        private: Sequence[IPNetwork] = (),
        *,
        connections: int = 4,
        resolver: Resolver = system_resolver,
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._private = private
        self._resolve = resolver
        self._target = parse_url(endpoint.url, URL_RULES)
        self._secrets = SigningSecrets(endpoint.secret_file)
        self._transport = transport() if transport is not None else _network(connections)

    async def close(self) -> None:
        await self._transport.aclose()

    def check(self) -> None:
        """Raises SecretUnusable: told before an event has to suffer from it."""
        self._secrets.signature("check", datetime.now(UTC), b"")

    async def post(self, event_id: str, body: bytes) -> Answer:
        """Never raises on account of the endpoint or its settings."""
        limit_s = self._endpoint.timeout_s
        try:
            headers = self._headers(event_id, body)
            async with asyncio.timeout(limit_s):
                addresses = await self._addresses(self._target)
                return await exchange(
                    lambda: contextlib.nullcontext(self._transport),
                    self._target,
                    addresses,
                    _read,
                    headers=headers,
                    timeout_s=limit_s,
                    method="POST",
                    content=body,
                    peer=_PEER,
                )
        except TimeoutError:
            return Answer(f"{_PEER} did not answer within {limit_s:g} s.")
        except (UrlRefused, FetchFailed, SecretUnusable) as error:
            return Answer(str(error))

    def _headers(self, event_id: str, body: bytes) -> dict[str, str]:
        now = datetime.now(UTC)
        return {
            "User-Agent": "parakh-webhooks",
            "Accept-Encoding": "identity",
            "Content-Type": f"{STRUCTURED}; charset=UTF-8",
            "Content-Length": str(len(body)),
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._secrets.signature(event_id, now, body),
        }

    async def _addresses(self, target: Target) -> list[IPAddress]:
        addresses = check_addresses(await self._resolve(target.host, target.port), self._private)
        if target.scheme == "http" and any(is_public(address) for address in addresses):
            raise UrlRefused("A webhook endpoint on the public internet needs https.")
        return addresses


def _network(connections: int) -> httpx.AsyncBaseTransport:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=connections, keepalive_expiry=20.0)
    tls = ssl.create_default_context()
    return httpx.AsyncHTTPTransport(verify=tls, trust_env=False, http2=False, retries=0, limits=limits)


async def _read(response: httpx.Response) -> Answer:
    status = response.status_code
    retry_after_s = _seconds(response.headers.get("retry-after")) if status in (429, 503) else None
    with contextlib.suppress(httpx.HTTPError, TimeoutError):  # the status was the answer
        async with asyncio.timeout(MAX_DRAIN_S):
            await _drain(response)
    if 200 <= status < 300:
        return Answer(None, status)
    said = f"{_PEER} answered {status}"
    return Answer(f"{said}: redirects are not followed." if 300 <= status < 400 else f"{said}.", status, retry_after_s)


async def _drain(response: httpx.Response) -> None:
    """To the body's end, so that the connection may be used again; or to the cap, and then it may not."""
    read = 0
    async for chunk in response.aiter_raw():
        read += len(chunk)
        if read > MAX_ANSWER_BYTES:
            return


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After: seconds or a date (RFC 9110)."""
    if not retry_after or len(retry_after) > 64:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after), MAX_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max(0.0, (at - datetime.now(UTC)).total_seconds()), MAX_RETRY_AFTER_S)
