"""One phase of the drill: send with a bounded backlog, wait until everything is worked off, say how long it took."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from aiokafka import AIOKafkaProducer
from sqlalchemy import select
from sqlalchemy.sql.functions import count

from benchmarks.delivery.topics import behind
from benchmarks.delivery.traffic import CLIPS, POSTS, VIEWS, Sent, Traffic
from deployments.runtime.errors import NodeUnavailable
from serve_app.records.engine import Database, Work
from serve_app.records.event_tables import ClipRow, ConsumedEventRow, DeadLetterRow
from serve_app.records.tables import OutboxRow, VerdictRow

T = TypeVar("T")

BACKLOG = 256  # sent and not yet stored: the consumers always find enough, and an age is not the whole run's length
SETTLE_S = 90.0


@dataclass
class Phase:
    name: str
    sent: list[Sent] = field(default_factory=list)
    seconds: float = 0.0
    done: int = 0

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0


class Field:
    """Where phases run: they share a broker and a database."""

    def __init__(self, broker: str, database: Database, group: str) -> None:
        self._broker, self._database, self._group = broker, database, group

    async def run(self, traffic: Traffic, name: str, limit_s: float) -> Phase:
        """Ends when all is stored, or at `limit_s`: what is missing then, the ledger finds."""
        phase = Phase(name)
        before = await self._done()
        names: set[tuple[str, bytes]] = set()
        began = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s), self._producer() as producer:
                for sent in traffic:
                    while len(names) - phase.done >= BACKLOG:
                        await asyncio.sleep(0.2)
                        phase.done = await self._done() - before
                    record = sent.record
                    await producer.send_and_wait(
                        record.topic, record.value, key=record.key, headers=list(record.headers.items())
                    )
                    phase.sent.append(sent)
                    names.add((record.topic, record.value))
                while phase.done < len(names):
                    await asyncio.sleep(0.2)
                    phase.done = await self._done() - before
        phase.seconds = time.monotonic() - began
        return phase

    async def settle(self) -> None:
        """Until everything has left and is committed, or for SETTLE_S."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while not await self._settled():  # noqa: ASYNC110  # other processes settle it, and tell nobody
                    await asyncio.sleep(1)

    async def _settled(self) -> bool:
        return not await self._waiting() and not await behind(self._broker, self._group, (POSTS, CLIPS, VIEWS))

    async def ages_s(self, phase: Phase) -> list[float]:
        """From creation to verdict, of the posts and clips of one phase."""
        posts = select(VerdictRow.created_at, VerdictRow.decided_at).where(
            VerdictRow.post_id.startswith(f"{phase.name}-")
        )
        clips = select(ClipRow.created_at, ClipRow.decided_at).where(ClipRow.stream_id.startswith(f"{phase.name}-"))
        rows = await self._read(lambda session: [*session.execute(posts), *session.execute(clips)])
        return [(decided_at - created_at).total_seconds() for created_at, decided_at in rows]

    async def _done(self) -> int:
        """Messages without an event's name leave no row but their letter."""
        nameless = select(count()).select_from(DeadLetterRow).where(DeadLetterRow.event_id.is_(None))
        named = select(count()).select_from(ConsumedEventRow)
        return await self._read(
            lambda session: session.execute(named).scalar_one() + session.execute(nameless).scalar_one()
        )

    async def _waiting(self) -> int:
        query = select(count()).select_from(OutboxRow).where(OutboxRow.published_at.is_(None))
        return await self._read(lambda session: session.execute(query).scalar_one())

    async def _read(self, work: Work[T]) -> T:
        """The drill's own connections are terminated too."""
        while True:
            try:
                return await self._database.read(work)
            except NodeUnavailable:
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(bootstrap_servers=self._broker, acks="all", max_request_size=4 * 2**20)
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()
