"""A URL in, its bytes out, fetched so that it cannot be turned against the network this runs in.

Order, for the first URL and for each redirect: parse -> resolve once -> every address checked -> connect to the
checked address itself (the Host header, TLS name and certificate stay the host's) -> body counted while it streams.
One deadline covers all of it. httpx is told a literal address, so that nothing resolves the name a second time.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

import httpx

from deployments.media.settings import MediaSettings
from deployments.media.url_guard import IPAddress, Target, check_addresses, next_target, parse_url
from deployments.runtime.errors import FetchFailed, TooLarge

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> every address of the host, as text."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONNECT_S = 5.0  # then the host's next address is tried
_HEADERS = {"User-Agent": "parakh-media", "Accept": "*/*", "Accept-Encoding": "identity"}


async def system_resolver(host: str, port: int) -> Sequence[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise FetchFailed("The URL's host does not resolve.") from None
    return [str(entry[4][0]) for entry in found]


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
        """The body, or the Location of a redirect. Addresses are tried in order until one accepts a connection."""
        for address in dict.fromkeys(addresses):
            try:
                return await self._get_from(target, address)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError):
                raise FetchFailed("The media's server broke off or did not speak proper HTTP.") from None
        raise FetchFailed("The media's server cannot be reached.")

    async def _get_from(self, target: Target, address: IPAddress) -> bytes | str:
        literal = f"[{address}]" if address.version == 6 else str(address)
        request = httpx.Request(
            "GET",
            httpx.URL(f"{target.scheme}://{literal}:{target.port}", raw_path=target.path.encode("ascii")),
            headers={**_HEADERS, "Host": target.authority},
            extensions={
                "sni_hostname": target.host.rstrip("."),
                "timeout": httpx.Timeout(self._settings.fetch_deadline_s, connect=_CONNECT_S).as_dict(),
            },
        )
        async with self._transport() as transport:  # fresh: no cookies, no kept connection, no proxy
            response = await transport.handle_async_request(request)
            response.request = request
            try:
                return await self._read(response)
            finally:
                await response.aclose()

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
