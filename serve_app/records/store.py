"""All stores over one database; a caller takes only the one it needs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

from sqlalchemy import text

from deployments.policy.policy import default_policy
from serve_app.gate_settings import GatingSettings
from serve_app.records.audit import AuditStore
from serve_app.records.authors import AuthorStore
from serve_app.records.dead_letters import DeadLetterStore
from serve_app.records.duties import DutyStore
from serve_app.records.engine import open_database
from serve_app.records.erasure import ErasureStore
from serve_app.records.events import EventStore
from serve_app.records.external import ExternalItemStore
from serve_app.records.garbage import GarbageStore
from serve_app.records.gate_decisions import GateStore
from serve_app.records.hash_lists import HashListStore
from serve_app.records.holds import LegalHoldStore
from serve_app.records.index_jobs import IndexJobStore
from serve_app.records.jobs import JobStore
from serve_app.records.keys import KeyStore
from serve_app.records.known import KnownStore
from serve_app.records.migrate import upgrade_database
from serve_app.records.outbox import OutboxStore
from serve_app.records.outcomes import DecisionExport
from serve_app.records.posts import PostStore
from serve_app.records.recall_estimate import RecallStore
from serve_app.records.reconciling import ReconcileStore
from serve_app.records.references import FloodLimit, ReferenceStore
from serve_app.records.retention import RetentionStore
from serve_app.records.reviews import ReviewStore
from serve_app.records.streams import StreamStore
from serve_app.records.view_counts import MILESTONES
from serve_app.records.webhooks import WebhookStore
from serve_app.streams.state import StreamRule


class Records:
    """Nothing is opened before `start` (or the first use); it may be built outside an event loop."""

    def __init__(
        self,
        url: str,
        flood: FloodLimit = FloodLimit(),  # noqa: B008
        rule: StreamRule | None = None,
        milestones: Sequence[int] = MILESTONES,
        gating: GatingSettings = GatingSettings(),  # noqa: B008
    ) -> None:
        """`rule`: how clips add up to a stream's state, by the default policy where None."""
        rule = rule or StreamRule(default_policy())
        self._database = open_database(url)
        self._starting = asyncio.Lock()
        self._started = False
        self.posts = PostStore(self._database, flood, gating.queue)
        self.jobs = JobStore(self._database)
        self.erasures = ErasureStore(self._database)
        self.garbage = GarbageStore(self._database)
        self.events = EventStore(self._database, flood, rule, milestones, gating.queue)
        self.streams = StreamStore(self._database, rule)
        self.dead_letters = DeadLetterStore(self._database)
        self.webhooks = WebhookStore(self._database)
        self.duties = DutyStore(self._database)
        self.keys = KeyStore(self._database)
        self.outbox = OutboxStore(self._database)
        self.audit = AuditStore(self._database)
        self.known = KnownStore(self._database)
        self.index_jobs = IndexJobStore(self._database)
        self.references = ReferenceStore(self._database)
        self.hash_lists = HashListStore(self._database)
        self.external = ExternalItemStore(self._database)
        self.reconciling = ReconcileStore(self._database)
        self.retention = RetentionStore(self._database)
        self.gate = GateStore(self._database, gating.queue, milestones)
        self.authors = AuthorStore(self._database, gating.history_days)
        self.reviews = ReviewStore(self._database, gating.queue)
        self.recall = RecallStore(self._database, milestones)
        self.decision_table = DecisionExport(self._database)
        self.holds = LegalHoldStore(self._database)

    @classmethod
    async def open(cls, url: str) -> Self:
        """Records that are ready: the schema is up to date."""
        records = cls(url)
        await records.start()
        return records

    async def start(self) -> None:
        """Bring the schema up to date. Idempotent, and safe from several processes at once."""
        async with self._starting:
            if not self._started:
                await upgrade_database(self._database)
                self._started = True

    async def ping(self) -> None:
        """Raises RecordsUnavailable."""
        await self._database.read(lambda session: session.scalar(text("SELECT 1")))

    async def close(self) -> None:
        await self._database.close()
