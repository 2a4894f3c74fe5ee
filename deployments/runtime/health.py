"""Health that means something: the age of a node's last real pass, and of the oldest work still running.

Traffic counts as proof of life. An idle node runs its own example when Serve asks (every 10 s), so that the
last pass is never older than MAX_PASS_AGE_S while the node is well: `ready` means no more and no less. To replace a
replica takes more: work that is stuck, or failures that go on for as long; a long batch alone only makes it sick.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from deployments.runtime.errors import NodeUnavailable, ParakhError, StuckBatch
from deployments.runtime.values import ModelCard, NodeStatus

logger = logging.getLogger(__name__)

PROBE_AFTER_S = 8.0  # Serve asks every 10 s: an idle node runs its example at every asking
MAX_PASS_AGE_S = 30.0


class Health:
    """Of one node.

    Args:
        probe: one real pass over the node's own example; raises where it fails.
        running_s: age of the oldest work still running, 0 when idle.
        stuck_after_s: older work than this cannot be expected to end: the replica should be replaced.
        can_probe: whether a probe would run at once; by default, where nothing is running.
    """

    def __init__(
        self,
        node: str,
        *,
        probe: Callable[[], Awaitable[object]],
        running_s: Callable[[], float],
        stuck_after_s: float,
        can_probe: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self._probe = probe
        self._running_s = running_s
        self._stuck_after_s = stuck_after_s
        self._can_probe = can_probe or (lambda: running_s() == 0)
        self._clock = clock
        self._last_success = clock()  # the constructor's warm-up was one
        self._last_failure = self._last_success
        self._last_error: str | None = None  # since the last success

    def succeeded(self) -> None:
        self._last_success, self._last_error = self._clock(), None

    def failed(self, error: BaseException) -> None:
        """Only the type is kept: an exception's text is for the log, not for `/readyz`."""
        self._last_failure, self._last_error = self._clock(), type(error).__name__

    def age_s(self) -> float:
        return self._clock() - self._last_success

    async def check(self) -> None:
        """Raises StuckBatch or NodeUnavailable where this replica should be replaced."""
        running_s = self._running_s()
        if running_s > self._stuck_after_s:
            raise StuckBatch(f"{self.node}: work has been running for {running_s:.0f} s.")
        if self.age_s() > PROBE_AFTER_S and self._can_probe():
            await self._run_probe()
        if self._last_error is not None and self._last_failure - self._last_success > MAX_PASS_AGE_S:
            raise NodeUnavailable(self._too_old())

    async def status(self, model: ModelCard | None) -> NodeStatus:
        """Never raises: a sick node says why."""
        try:
            await self.check()
        except ParakhError as error:
            return self._status("sick", str(error), model)
        if self.age_s() > MAX_PASS_AGE_S:
            return self._status("sick", self._too_old(), model)
        return self._status("ready", None, model)

    def _status(self, state: Literal["ready", "sick"], reason: str | None, model: ModelCard | None) -> NodeStatus:
        return NodeStatus(self.node, state, reason, round(self.age_s(), 1), model)

    def _too_old(self) -> str:
        cause = f" ({self._last_error})" if self._last_error else ""
        return f"{self.node}: no pass has succeeded for {self.age_s():.0f} s{cause}."

    async def _run_probe(self) -> None:
        try:
            await self._probe()
        except Exception as error:  # whatever a model may raise is a sick node, not a crash of the health check
            logger.exception("%s: the probe failed", self.node)
            self.failed(error)
        else:
            self.succeeded()
