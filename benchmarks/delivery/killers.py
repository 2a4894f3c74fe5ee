"""Deaths at random, from one seed: processes by kill -9, database connections by the database itself.

Only processes of the drill are touched, each by its id. The broker and the database's own processes live.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import psutil
from sqlalchemy import text

from benchmarks.delivery.grounds import ENCODERS, Grounds
from deployments.runtime.errors import NodeUnavailable
from serve_app.records.engine import Database

_TERMINATE = text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
KINDS = {"events_replica": 2, "consume_process": 2, "encoder_replica": 3, "database_connections": 4}  # weights


class Killers:
    def __init__(self, subject: Grounds, database: Database, seed: int, every_s: float) -> None:
        self._grounds, self._database = subject, database
        self._rng = random.Random(seed)
        self._every_s = every_s
        self.died_alone = 0  # consume processes that ended before they were killed
        self.kills: Counter[str] = Counter(dict.fromkeys(KINDS, 0))

    async def run(self) -> None:
        """Until cancelled. The first round has one of each kind, in random order."""
        first = self._rng.sample(sorted(KINDS), len(KINDS))
        ways: dict[str, Callable[[], Awaitable[bool]]] = {
            "events_replica": self._events_replica,
            "consume_process": self._consume_process,
            "encoder_replica": self._encoder_replica,
            "database_connections": self._database_connections,
        }
        while True:
            await asyncio.sleep(self._every_s * self._rng.uniform(0.5, 1.5))
            kind = first.pop() if first else self._rng.choices(list(KINDS), list(KINDS.values()))[0]
            self.kills[kind] += await ways[kind]()

    async def _events_replica(self) -> bool:
        return self._kill_one("events")

    async def _encoder_replica(self) -> bool:
        return self._kill_one(self._rng.choice(ENCODERS))

    def _kill_one(self, node: str) -> bool:
        replicas = self._grounds.replicas(node)
        if not replicas:
            return False  # its death before this one is not mended yet
        with contextlib.suppress(psutil.NoSuchProcess):
            self._rng.choice(replicas).kill()
            return True
        return False

    async def _consume_process(self) -> bool:
        process = self._grounds.consume
        assert process is not None
        self.died_alone += self._grounds.consume_died()
        process.kill()
        await asyncio.to_thread(process.wait)
        self._grounds.start_consume()
        return True

    async def _database_connections(self) -> bool:
        """All of them at once, but the one that says so."""
        if not self._database.url.drivername.startswith("postgresql"):
            return False
        try:
            await self._database.write(lambda session: session.execute(_TERMINATE).scalar_one())
        except NodeUnavailable:
            return False
        return True
