"""A URL in, its bytes out, fetched so that it cannot be turned against the network this runs in.

Order, for the first URL and for each redirect: parse -> resolve once -> every address checked -> connect to the
checked address itself (the Host header, TLS name and certificate stay the host's) -> body counted while it streams.
One deadline covers all of it. httpx is told a literal address, so that nothing resolves the name a second time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence

import httpx

from deployments.media.guarded_http import Resolver, exchange, system_resolver
from deployments.media.settings import MediaSettings
from deployments.media.url_guard import IPAddress, Target, check_addresses, next_target, parse_url
from deployments.runtime.errors import FetchFailed, TooLarge

__all__ = ["Fetcher", "Resolver", "system_resolver"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": "parakh-media", "Accept": "*/*", "Accept-Encoding": "identity"}


class Fetcher:
    """One per process; safe for concurrent calls. `transport` replaces the wire in tests."""

    def __init__(
        self,
        settings: MediaSettings,
        resolver: Resolver = system_resolver,
        *,
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._settings = settings
        self._resolve = resolver
        self._tls = ssl.create_default_context()
        self._transport = transport or self._network

    def _network(self) -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, http2=False, retries=0)

    async def fetch(self, url: str) -> bytes:
        """Raises UrlRefused, FetchFailed or TooLarge; the message never holds anything the server sent."""
        try:
            async with asyncio.timeout(self._settings.fetch_deadline_s):
                return await self._follow(parse_url(url, self._settings))
        except TimeoutError:
            limit_s = self._settings.fetch_deadline_s
            raise FetchFailed(f"The media's server did not deliver within {limit_s:g} s.") from None

    async def _follow(self, target: Target) -> bytes:
        for _ in range(self._settings.max_redirects + 1):
            addresses = check_addresses(await self._resolve(target.host, target.port))
            found = await self._get(target, addresses)
            if isinstance(found, bytes):
                return found
            target = next_target(target, found, self._settings)
        raise FetchFailed(f"The media's server redirects more than {self._settings.max_redirects} times.")

    async def _get(self, target: Target, addresses: Sequence[IPAddress]) -> bytes | str:
        """The body, or the Location of a redirect. A fresh transport each time: no cookies, no kept connection."""
        deadline_s = self._settings.fetch_deadline_s
        return await exchange(self._transport, target, addresses, self._read, headers=_HEADERS, timeout_s=deadline_s)

    async def _read(self, response: httpx.Response) -> bytes | str:
        if response.status_code in _REDIRECTS:
            location = response.headers.get("location")
            if not location:
                raise FetchFailed("The media's server redirects to nowhere.")
            return str(location)
        if response.status_code != 200:
            raise FetchFailed(f"The media's server answered {response.status_code}.")
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise FetchFailed("The media's server sent a compressed body that was not asked for.")
        return await self._body(response)

    async def _body(self, response: httpx.Response) -> bytes:
        """Content-Length is only a hint: what arrives is counted."""
        limit = self._settings.max_bytes
        too_large = f"The file is larger than {limit} bytes."
        promised = response.headers.get("content-length", "")
        if promised.isascii() and promised.isdigit() and int(promised[:20]) > limit:
            raise TooLarge(too_large)
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit:
                raise TooLarge(too_large)
        return bytes(body)
