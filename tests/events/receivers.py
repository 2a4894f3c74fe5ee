"""What stands on the other side of a webhook: a real HTTP server on loopback, and records that live in memory."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve_app.events.webhook_settings import WebhookSettings
from serve_app.records.values import WebhookDelivery

LOOPBACK = "127.0.0.0/8"


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes
    line: str


@dataclass
class Receiver:
    """Answers by `answer`, a function of how many requests there were before; counts connections and requests."""

    answer: Callable[[int], str] = lambda _: "204 No Content"
    delay_s: float = 0.0
    tail: bytes = b""
    got: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def ids(self) -> list[str]:
        return [one.headers["webhook-id"] for one in self.got]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode("latin-1").strip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                status = self.answer(len(self.got))
                self.got.append(Received(headers, body, line))
                await asyncio.sleep(self.delay_s)
                length = "" if self.tail else "Content-Length: 0\r\n"
                writer.write(f"HTTP/1.1 {status}\r\n{length}\r\n".encode() + self.tail)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(**changes: Any) -> AsyncIterator[Receiver]:
    receiver = Receiver(**changes)
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def settings_for(folder: Path, *receivers: Receiver, **changes: Any) -> WebhookSettings:
    """Endpoints e0, e1, ... with a secret each; loopback is allowed."""
    endpoints = []
    for number, receiver in enumerate(receivers):
        file = folder / f"secret{number}"
        if not file.exists():
            file.write_text(new_secret() + "\n")
        url = f"http://127.0.0.1:{receiver.port}/hook?x=1"
        given = {"name": f"e{number}", "url": url, "secret_file": file, "timeout_s": 2}
        endpoints.append(given | changes.pop(f"e{number}", {}))
    return WebhookSettings.model_validate({"endpoints": endpoints, "allowed_private": [LOOPBACK]} | changes)


def delivery(event_id: str = "ev1", endpoint: str = "e0", **changes: Any) -> WebhookDelivery:
    found = WebhookDelivery(
        event_id=event_id,
        endpoint=endpoint,
        topic="parakh.verdicts",
        type="parakh.post.judged",
        key="p1",
        payload={"post_id": "p1", "action": "block"},
        created_at=datetime(2026, 11, 21, 10, tzinfo=UTC),
        attempts=0,
    )
    return replace(found, **changes)


@dataclass
class Kept:
    delivery: WebhookDelivery
    next_at: datetime
    status: int | None = None
    error: str | None = None
    outcome: str = "open"


class MemoryWebhooks:
    """A WebhookStore in memory."""

    def __init__(self, *deliveries: WebhookDelivery) -> None:
        self.kept = {(one.event_id, one.endpoint): Kept(one, datetime.now(UTC)) for one in deliveries}

    async def due(self, limit: int = 100, endpoints: Sequence[str] | None = None) -> list[WebhookDelivery]:
        now = datetime.now(UTC)
        found = [
            kept.delivery
            for (_, endpoint), kept in self.kept.items()
            if kept.outcome == "open" and kept.next_at <= now and (endpoints is None or endpoint in endpoints)
        ]
        return found[:limit]

    async def delivered(self, event_id: str, endpoint: str, status: int) -> None:
        kept = self.kept[event_id, endpoint]
        kept.status, kept.outcome = status, "delivered"

    async def failed(
        self, event_id: str, endpoint: str, status: int | None, error: str, next_attempt_at: datetime | None
    ) -> None:
        kept = self.kept[event_id, endpoint]
        kept.status, kept.error = status, error
        kept.delivery = replace(kept.delivery, attempts=kept.delivery.attempts + 1)
        if next_attempt_at is None:
            kept.outcome = "given up"
        else:
            kept.next_at = next_attempt_at

    def outcomes(self, endpoint: str = "e0") -> list[str]:
        return [kept.outcome for (_, name), kept in self.kept.items() if name == endpoint]


class MemoryDuties:
    def __init__(self) -> None:
        self.holders: dict[str, str] = {}

    async def take(self, name: str, token: str, lease_s: float) -> bool:
        return self.holders.setdefault(name, token) == token

    async def give_back(self, name: str, token: str) -> None:
        if self.holders.get(name) == token:
            del self.holders[name]


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)
