"""May this URL be fetched, and from which addresses? Pure: no sockets, no HTTP library.

Order: `parse_url` reads the text once and refuses whatever two parsers could read differently -> the caller resolves
the host once -> `check_addresses` wants every answer to be on the public internet -> the caller connects to one of
exactly these addresses. The text of a host is never judged: 2130706433 and 0x7f.1 show what they are when resolved.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from deployments.runtime.errors import UrlRefused

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_URL = 8192
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")  # control characters, white space, backslash
_HOST = re.compile(
    r"^(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.?$"
)
_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64 (RFC 6052): is_global, and leads to any IPv4 address
        "64:ff9b:1::/48",  # local-use NAT64 (RFC 8215)
        "2002::/16",  # 6to4: an IPv4 address inside
        "2001::/32",  # Teredo: an IPv4 address inside
        "::/96",  # IPv4-compatible, loopback, unspecified
        "fec0::/10",  # site-local
        "3fff::/20",  # documentation (RFC 9637), unknown to older Pythons
        "192.0.0.0/24",  # protocol assignments; one cloud's metadata server among them
        "192.88.99.0/24",  # 6to4 relay anycast
        "168.63.129.16/32",  # a cloud's host agent, public by number only
    )
)


class UrlRules(Protocol):
    """Where a URL may lead, beside the addresses; the media's settings are such."""

    @property
    def allowed_hosts(self) -> Sequence[str]:
        """Empty: any."""
        ...

    @property
    def allowed_ports(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Target:
    """A URL taken apart once; the request is built from these and never from the text again."""

    scheme: str
    host: str  # ASCII, without brackets
    port: int
    path: str  # with the query, ASCII

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_url(url: str, rules: UrlRules) -> Target:
    """Raises UrlRefused for anything but a plain http(s) URL with an allowed port and host."""
    if len(url) > _MAX_URL or _FORBIDDEN.search(url):
        raise UrlRefused("The URL is too long or holds white space, control characters or a backslash.")
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        raise UrlRefused("The URL is malformed.") from None
    if scheme not in DEFAULT_PORTS:
        raise UrlRefused("Only http and https URLs are fetched.")
    if "@" in parts.netloc:
        raise UrlRefused("A URL with a user name or password is not fetched.")
    port = DEFAULT_PORTS[scheme] if port is None else port
    if port not in rules.allowed_ports:
        raise UrlRefused(f"Port {port} is not allowed.")
    host = _ascii_host(host or "")
    if rules.allowed_hosts and not _listed(host, rules.allowed_hosts):
        raise UrlRefused("The URL's host is not on the list of allowed hosts.")
    return Target(scheme, host, port, _path(parts.path, parts.query))


def _ascii_host(host: str) -> str:
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise UrlRefused("The URL's host is malformed.") from None
    try:
        host = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise UrlRefused("The URL's host is malformed.") from None
    if len(host) > 253 or not _HOST.match(host):
        raise UrlRefused("The URL's host is malformed.")
    return host


def _listed(host: str, allowed: Sequence[str]) -> bool:
    host = host.rstrip(".")
    return any(
        host.endswith(entry) if entry.startswith(".") else host == entry
        for entry in (entry.lower().rstrip(".") for entry in allowed)
    )


def _path(path: str, query: str) -> str:
    """Non-ASCII characters percent-encoded as UTF-8; everything else as it came."""
    text = (path or "/") + (f"?{query}" if query else "")
    return "".join(c if c.isascii() else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "replace")) for c in text)


def next_target(current: Target, location: str, rules: UrlRules) -> Target:
    """Where a redirect leads, checked like a first URL; never from https to http."""
    try:
        url = urljoin(current.url, location)
    except ValueError:
        raise UrlRefused("The media's server redirects to a malformed URL.") from None
    target = parse_url(url, rules)
    if current.scheme == "https" and target.scheme == "http":
        raise UrlRefused("The media's server redirects from https to http.")
    return target


def check_addresses(answers: Sequence[str], private: Sequence[IPNetwork] = ()) -> list[IPAddress]:
    """Every address a host resolves to must be public, or in one of the `private` networks that the operator allowed:
    one that is not refuses them all. Raises UrlRefused."""
    if not answers:
        raise UrlRefused("The URL's host has no address.")
    addresses = []
    for answer in answers:
        try:
            address = ipaddress.ip_address(answer)
        except ValueError:
            raise UrlRefused() from None
        if not is_public(address) and not in_networks(address, private):
            raise UrlRefused()
        addresses.append(address)
    return addresses


def in_networks(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def is_public(address: IPAddress) -> bool:
    """Stricter than `is_global`, and not `not is_private`: 100.64.0.1 (CGNAT) is neither private nor global."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
    if in_networks(address, _NEVER):
        return False
    refused = (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.is_private
        or address.is_reserved
    )
    return address.is_global and not refused
