"""What only one process may do at a time: a lease in the database, kept while it is wanted.

Two processes may both believe in a lease for a moment (a clock that jumps, a process that was frozen). What is done
under it must not mind: here, events go out twice under one id.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Protocol

from deployments.runtime.errors import NodeUnavailable

log = logging.getLogger(__name__)


class Duties(Protocol):
    async def take(self, name: str, token: str, lease_s: float) -> bool:
        """True: the duty is this token's until `lease_s` from now. Taken again, it is prolonged."""
        ...

    async def give_back(self, name: str, token: str) -> None: ...


class Duty:
    def __init__(self, duties: Duties, name: str, *, lease_s: float = 15.0) -> None:
        self._duties = duties
        self._name = name
        self._lease_s = lease_s
        self._token = secrets.token_hex(16)
        self._until = 0.0
        self._refused_at: float | None = None

    @property
    def held(self) -> bool:
        return time.monotonic() < self._until

    async def hold(self) -> bool:
        """Take it, or prolong it once a third of the lease is gone. Raises RecordsUnavailable."""
        now = time.monotonic()
        if self._until - now > self._lease_s * 2 / 3:
            return True
        if self._refused_at is not None and now - self._refused_at < self._lease_s / 4:
            return False  # another process has it: asking is a write, and need not be often
        taken = await self._duties.take(self._name, self._token, self._lease_s)
        self._until = now + self._lease_s if taken else 0.0  # from before the question: never longer than the database
        self._refused_at = None if taken else now
        return taken

    async def give_up(self) -> None:
        """So that another process need not wait for the lease's end. Never raises for a database that is away."""
        if self.held:
            self._until = 0.0
            try:
                await self._duties.give_back(self._name, self._token)
            except NodeUnavailable:
                log.info("the duty %s ends by itself: the database does not answer", self._name)

    async def keep(self) -> None:
        """Until cancelled; beside work that may take longer than the lease."""
        while True:
            try:
                await self.hold()
            except NodeUnavailable:
                log.warning("the duty %s cannot be prolonged: the database does not answer", self._name)
            await asyncio.sleep(self._lease_s / 4)
