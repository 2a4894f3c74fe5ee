"""Fetching against real sockets: a DNS server and HTTP servers on loopback stand in for the internet.

The guard would refuse loopback, so the transport is the one thing that is swapped: it dials the loopback server in
place of a public address, and notes which address it was told to dial.
"""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from dnslib import QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSServer

from deployments.media.fetch import Fetcher, system_resolver
from deployments.media.settings import MediaSettings
from deployments.runtime.errors import FetchFailed, TooLarge, UrlRefused

PUBLIC = "93.184.216.34"
Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Wire:
    """Stands between the fetcher and the network: a table from the dialled address to a loopback port."""

    def __init__(self, ports: dict[str, int], tls: ssl.SSLContext | None = None) -> None:
        self.ports = ports
        self.tls = tls
        self.dialled: list[str] = []

    def __call__(self) -> httpx.AsyncBaseTransport:
        return _Redialled(self)


class _Redialled(httpx.AsyncBaseTransport):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._real = httpx.AsyncHTTPTransport(verify=wire.tls or True, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._wire.dialled.append(request.url.host)
        port = self._wire.ports.get(request.url.host)
        if port is None:
            raise httpx.ConnectError("nobody there")
        request.url = request.url.copy_with(host="127.0.0.1", port=port)
        return await self._real.handle_async_request(request)

    async def aclose(self) -> None:
        await self._real.aclose()


@asynccontextmanager
async def server(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await answer(head.decode("latin-1"), writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


def says(body: bytes = b"", status: str = "200 OK", **headers: str) -> Answer:
    lines = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)

    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)

    return answer


def redirect(location: str, status: str = "302 Found") -> Answer:
    return says(status=status, Location=location)


def names(table: dict[str, str | list[str]]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    async def resolve(host: str, _: int) -> Sequence[str]:
        found = table.get(host, PUBLIC)
        return [found] if isinstance(found, str) else found

    return resolve


async def fetch(
    answer: Answer,
    url: str = "http://media.example/a.mp4",
    table: dict[str, str | list[str]] | None = None,
    **options: object,
) -> bytes:
    async with server(answer) as port:
        wire = Wire({PUBLIC: port})
        return await Fetcher(MediaSettings.model_validate(options), names(table or {}), transport=wire).fetch(url)


# ---- the ordinary case


async def test_a_body_arrives_whole_and_the_server_sees_its_own_name() -> None:
    heads = []

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    assert await fetch(answer, "http://media.example/a%20b?c=d&e") == b"hello"
    lines = heads[0].split("\r\n")
    assert lines[0] == "GET /a%20b?c=d&e HTTP/1.1"
    assert "Host: media.example" in lines
    assert "Accept-Encoding: identity" in lines
    assert not any(line.lower().startswith(("cookie", "authorization", "referer")) for line in lines)


async def test_chunked_bodies_arrive() -> None:
    assert await fetch(says(b"5\r\nhello\r\n0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked")) == b"hello"


async def test_redirects_are_followed_up_to_three_times() -> None:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        left = int(head.split()[1].strip("/"))
        await (says(b"here") if left == 0 else redirect(f"/{left - 1}"))(head, writer)

    assert await fetch(answer, "http://media.example/3") == b"here"
    with pytest.raises(FetchFailed, match="more than 3 times"):
        await fetch(answer, "http://media.example/4")


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    table: dict[str, str | list[str]] = {"media.example": ["93.184.216.99", PUBLIC]}
    assert await fetch(says(b"hello"), table=table) == b"hello"


# ---- addresses


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "0",
        "localhost",
        "127.0.0.1.",
        "①②⑦.0.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "10.1.2.3",
        "100.64.0.1",
        "169.254.169.254",
    ],
)
async def test_no_spelling_of_an_inner_address_is_dialled(host: str) -> None:
    wire = Wire({})
    with pytest.raises((UrlRefused, FetchFailed)) as caught:
        await Fetcher(MediaSettings(), system_resolver, transport=wire).fetch(f"http://{host}/")
    assert wire.dialled == []
    if host not in ("localhost", "127.0.0.1."):  # whether these two resolve is the machine's business
        assert caught.type is UrlRefused


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://inner.example/",
        "//169.254.169.254/latest",
        "file:///etc/passwd",
        "http://[x",
        "//[x",
        "//exa\u2100mple.com/",  # becomes a/c, two parts, when normalised (NFKC)
    ],
)
async def test_a_redirect_inwards_or_into_nonsense_is_refused(location: str) -> None:
    table: dict[str, str | list[str]] = {
        "inner.example": "10.0.0.1",
        "10.0.0.1": "10.0.0.1",
        "169.254.169.254": "169.254.169.254",
    }
    async with server(redirect(location)) as port:
        wire = Wire({PUBLIC: port, "10.0.0.1": port, "169.254.169.254": port})
        fetcher = Fetcher(MediaSettings(), names(table), transport=wire)
        with pytest.raises(UrlRefused):
            await fetcher.fetch("http://media.example/")
    assert wire.dialled == [PUBLIC]


class _ChangingZone(BaseResolver):  # type: ignore[misc]
    """The first answer is public, every later one is loopback."""

    def __init__(self) -> None:
        self.asked = 0

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        self.asked += 1
        reply = request.reply()
        address = PUBLIC if self.asked == 1 else "127.0.0.1"
        reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=0))
        return reply


@pytest.fixture
def zone() -> Iterator[tuple[_ChangingZone, int]]:
    answers = _ChangingZone()
    dns = DNSServer(answers, address="127.0.0.1", port=0)
    dns.start_thread()
    yield answers, dns.server.server_address[1]
    dns.stop()
    dns.server.server_close()


async def test_a_name_that_changes_its_address_is_asked_once_and_dialled_where_it_was_checked(
    zone: tuple[_ChangingZone, int],
) -> None:
    answers, dns_port = zone

    async def resolve(host: str, _: int) -> Sequence[str]:
        packet = await asyncio.to_thread(DNSRecord.question(host).send, "127.0.0.1", dns_port, timeout=5)
        return [str(record.rdata) for record in DNSRecord.parse(packet).rr]

    async with server(says(b"public")) as public, server(says(b"inner secret")) as inner:
        wire = Wire({PUBLIC: public, "127.0.0.1": inner})
        fetcher = Fetcher(MediaSettings(), resolve, transport=wire)
        assert await fetcher.fetch("http://rebind.example/") == b"public"
        assert answers.asked == 1
        assert wire.dialled == [PUBLIC]
        with pytest.raises(UrlRefused):  # and asked again it is refused
            await fetcher.fetch("http://rebind.example/")
        assert wire.dialled == [PUBLIC]


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    pool = Fetcher(MediaSettings())._network()
    assert isinstance(pool, httpx.AsyncHTTPTransport)
    assert type(pool._pool).__name__ == "AsyncConnectionPool"  # not AsyncHTTPProxy


def certified(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(a server's context with a certificate for `name`, a client's context that trusts exactly this one)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(certificate.public_bytes(Encoding.PEM) + key.private_bytes(*plain))
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(pem)
    return theirs, ssl.create_default_context(cafile=str(pem))


@pytest.mark.parametrize(("name", "accepted"), [("media.example", True), ("other.example", False), (PUBLIC, False)])
async def test_the_certificate_must_be_of_the_name_and_not_of_the_address(
    tmp_path: Path, name: str, accepted: bool
) -> None:
    heads = []

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    theirs, ours = certified(name, tmp_path)
    async with server(answer, tls=theirs) as port:
        wire = Wire({PUBLIC: port}, tls=ours)
        fetcher = Fetcher(MediaSettings(), names({}), transport=wire)
        if accepted:
            assert await fetcher.fetch("https://media.example/") == b"hello"
        else:
            with pytest.raises(FetchFailed, match="cannot be reached"):
                await fetcher.fetch("https://media.example/")
    assert len(heads) == accepted
    assert wire.dialled == [PUBLIC]


# ---- bodies


async def test_a_slow_drip_ends_at_the_deadline() -> None:
    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _byte in range(100):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    started = time.monotonic()
    with pytest.raises(FetchFailed, match=r"within 0\.5 s"):
        await fetch(answer, fetch_deadline_s=0.5)
    assert time.monotonic() - started < 3


async def test_a_resolver_that_hangs_ends_at_the_deadline() -> None:
    async def hang(_host: str, _port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    with pytest.raises(FetchFailed, match=r"within 0\.2 s"):
        await Fetcher(MediaSettings(fetch_deadline_s=0.2), hang).fetch("http://media.example/")


async def test_an_endless_body_is_cut_at_the_cap() -> None:
    sent = 0

    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    with pytest.raises(TooLarge, match="larger than 100000 bytes"):
        await fetch(answer, max_bytes=100_000)
    assert sent < 10_000_000


async def test_a_promised_length_above_the_cap_is_refused_at_once() -> None:
    with pytest.raises(TooLarge):
        await fetch(says(b"x", Content_Length="1000000"), max_bytes=1000)


@pytest.mark.parametrize("length", ["3", "50", "-1", "abc", "9" * 5000])
async def test_a_lying_length_never_yields_a_short_or_long_body(length: str) -> None:
    try:
        body = await fetch(says(b"hello", Content_Length=length))
    except (FetchFailed, TooLarge):
        return
    assert body == b"hello"[: int(length)]


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "identity, gzip"])
async def test_a_compressed_body_is_never_unpacked(encoding: str) -> None:
    with pytest.raises(FetchFailed, match="compressed"):
        await fetch(says(gzip.compress(b"\0" * 10_000_000), Content_Encoding=encoding))


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "204 No Content", "206 Partial Content", "401 No"])
async def test_a_failed_answer_is_not_echoed(status: str) -> None:
    with pytest.raises(FetchFailed) as caught:
        await fetch(says(b"inner secret", status))
    assert str(caught.value) == f"The media's server answered {status[:3]}."


@pytest.mark.parametrize("raw", [b"", b"not http at all\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000])
async def test_a_server_that_does_not_speak_http_is_a_failed_fetch(raw: bytes) -> None:
    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    with pytest.raises(FetchFailed):
        await fetch(answer)


async def test_a_name_that_does_not_resolve_is_a_failed_fetch() -> None:
    with pytest.raises(FetchFailed, match="does not resolve"):
        await Fetcher(MediaSettings()).fetch("http://nowhere.invalid/")
