"""One HTTP exchange with a server whose addresses were checked: nothing resolves its name a second time.

    resolve once -> `url_guard.check_addresses` -> `exchange` connects to exactly these addresses, in turn

The Host header, TLS name and certificate stay the host's. No redirects, no proxy of the environment, no cookies.
Shared by what fetches media and by what delivers webhooks.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import httpx

from deployments.media.url_guard import IPAddress, Target
from deployments.runtime.errors import FetchFailed

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> every address of the host, as text."""

Wire = Callable[[], AbstractAsyncContextManager[httpx.AsyncBaseTransport]]
"""The transport of one attempt: a fresh one, or one that keeps its connections."""

T = TypeVar("T")
_CONNECT_S = 5.0  # then the host's next address is tried


async def system_resolver(host: str, port: int) -> Sequence[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise FetchFailed("The URL's host does not resolve.") from None
    return [str(entry[4][0]) for entry in found]


async def exchange(
    wire: Wire,
    target: Target,
    addresses: Sequence[IPAddress],
    read: Callable[[httpx.Response], Awaitable[T]],
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    method: str = "GET",
    content: bytes = b"",
    peer: str = "The media's server",
) -> T:
    """What `read` makes of the answer. Addresses are tried in order until one accepts a connection.

    Raises FetchFailed with a message that holds nothing the server sent, and what `read` raises. `timeout_s` bounds
    each single wait; the whole is the caller's to bound.
    """
    for address in dict.fromkeys(addresses):
        request = _request(target, address, method, headers, content, timeout_s)
        try:
            async with wire() as transport:
                response = await transport.handle_async_request(request)
                response.request = request
                try:
                    return await read(response)
                finally:
                    await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout):
            continue
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError):
            raise FetchFailed(f"{peer} broke off or did not speak proper HTTP.") from None
    raise FetchFailed(f"{peer} cannot be reached.")


def _request(
    target: Target, address: IPAddress, method: str, headers: Mapping[str, str], content: bytes, timeout_s: float
) -> httpx.Request:
    literal = f"[{address}]" if address.version == 6 else str(address)
    return httpx.Request(
        method,
        httpx.URL(f"{target.scheme}://{literal}:{target.port}", raw_path=target.path.encode("ascii")),
        headers={**headers, "Host": target.authority},
        content=content or None,
        extensions={
            "sni_hostname": target.host.rstrip("."),
            "timeout": httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)).as_dict(),
        },
    )
