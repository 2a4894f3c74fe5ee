"""Health that means something: the age of a node's last real pass, and of the oldest work still running.

Traffic counts as proof of life. An idle node runs its own example when Serve asks (every 10 s), so that the
last pass is never older than MAX_PASS_AGE_S while the node is well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

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
    """

    def __init__(
        self,
        node: str,
        *,
        probe: Callable[[], Awaitable[object]],
        running_s: Callable[[], float],
        stuck_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self._probe = probe
        self._running_s = running_s
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._last_success = clock()  # the constructor's warm-up was one
        self._last_error: str | None = None

    def succeeded(self) -> None:
        self._last_success, self._last_error = self._clock(), None

    def failed(self, error: BaseException) -> None:
        """Only the type is kept: an exception's text is for the log, not for `/readyz`."""
        self._last_error = type(error).__name__

    def age_s(self) -> float:
        return self._clock() - self._last_success

    async def check(self) -> None:
        """Raises StuckBatch or NodeUnavailable where this replica should be replaced."""
        running_s = self._running_s()
        if running_s > self._stuck_after_s:
            raise StuckBatch(f"{self.node}: work has been running for {running_s:.0f} s.")
        if self.age_s() > PROBE_AFTER_S and running_s == 0:
            await self._run_probe()
        if self.age_s() > MAX_PASS_AGE_S and self._last_error is not None:
            raise NodeUnavailable(f"{self.node}: no pass has succeeded for {self.age_s():.0f} s ({self._last_error}).")

    async def status(self, model: ModelCard | None) -> NodeStatus:
        """Never raises: a sick node says why."""
        try:
            await self.check()
        except ParakhError as error:
            return NodeStatus(self.node, "sick", str(error), round(self.age_s(), 1), model)
        return NodeStatus(self.node, "ready", None, round(self.age_s(), 1), model)

    async def _run_probe(self) -> None:
        try:
            await self._probe()
        except Exception as error:  # whatever a model may raise is a sick node, not a crash of the health check
            logger.exception("%s: the probe failed", self.node)
            self.failed(error)
