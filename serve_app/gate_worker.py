"""Decides milestones beside the server, and looks after the gate: live recall, size of the audit sample, the alarm.

Any number of processes decide; one at a time (a duty) looks at recall and sets the audit share in the records, from
which all take it, so that all draw alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from datetime import UTC, datetime, timedelta

from deployments.runtime.errors import ParakhError
from serve_app.gate_settings import GatingSettings, RecallSettings
from serve_app.gating import GateObserver, Gating
from serve_app.recall import Kinds, Recall, audit_share, recall_of
from serve_app.records import Records

log = logging.getLogger(__name__)
_DUTY = "gate recall"
_CLOCK_S = 5.0


class GateWorker:
    def __init__(
        self, records: Records, gating: Gating, settings: GatingSettings, observer: GateObserver | None = None
    ) -> None:
        self._records, self._gating, self._settings, self._observer = records, gating, settings, observer
        self._token = secrets.token_hex(16)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if not self._tasks:
            loops = (("gate worker", self._work()), ("gate watch", self._watch()))
            self._tasks = [asyncio.create_task(loop, name=name) for name, loop in loops]

    async def stop(self) -> None:
        """What was claimed and not done is due again after `busy_s`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        with contextlib.suppress(ParakhError):
            await self._records.duties.give_back(_DUTY, self._token)

    async def look(self) -> list[Recall]:
        """Recall now, all together first and then by language; sets the audit share, tells the metrics, gives the
        alarm."""
        rule = self._settings.recall
        kinds = await self._records.recall.kinds(datetime.now(UTC) - timedelta(days=rule.window_days))
        together = recall_of(sum(kinds.values(), Kinds()), rule.level)
        by_language = [recall_of(found, rule.level, language) for language, found in sorted(kinds.items())]
        await self._records.gate.set_audit_share(_share(together, rule))
        if self._observer is not None:
            for each in (together, *by_language):
                if each.estimate is not None and each.lower is not None and each.upper is not None:
                    language = "*" if each.language is None else each.language or "und"
                    self._observer.recall(language, each.estimate, each.lower, each.upper)
        enough = together.kinds.bad_found >= rule.enough_bad
        if (
            enough
            and together.lower is not None
            and together.lower < rule.target
            and await self._records.recall.alarm(together, rule.target, by_language)
        ):
            log.warning("the gate's recall may be below %g: at least %.3f", rule.target, together.lower)
        return [together, *by_language]

    async def _work(self) -> None:
        while True:
            claimed = 0
            try:
                claimed = await self._gating.run_once()
            except Exception:  # the edge of the task: it outlives a sick database
                log.exception("gate jobs could not be worked off")
            if not claimed:
                await asyncio.sleep(self._settings.poll_s)

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        every_s = self._settings.recall.every_s
        next_look = 0.0
        while True:
            try:
                if clock() >= next_look and await self._records.duties.take(_DUTY, self._token, 2 * every_s):
                    next_look = clock() + every_s
                    await self.look()
                    await self._records.gate.forget_parked(self._settings.unknown_posts_s)
                share = await self._records.gate.audit_share()
                self._gating.audit(self._settings.recall.start_share if share is None else share)
                await self._gauges()
            except Exception:  # the edge of the task: it outlives a sick database
                log.exception("the gate could not be looked after; it will be tried again")
            await asyncio.sleep(_CLOCK_S)

    async def _gauges(self) -> None:
        if self._observer is None:
            return
        now = datetime.now(UTC)
        jobs, oldest = await self._records.gate.waiting()
        self._observer.waiting(jobs, 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds()))
        queue = await self._records.reviews.count()
        due = queue.earliest_due
        self._observer.queue(queue.open, 0.0 if due is None else max(0.0, (now - due).total_seconds()))


def _share(together: Recall, rule: RecallSettings) -> float:
    """As planned while too little is known; else what the wanted half-width asks for."""
    if together.kinds.bad_found < rule.enough_bad or not together.estimate:
        return rule.start_share
    bad = together.kinds.reviewed.bad_estimate / together.estimate
    recall = min(together.estimate, rule.target)  # never the luck of a sample without misses
    return max(rule.least_share, min(1.0, audit_share(bad, recall, rule.half_width, rule.level)))
