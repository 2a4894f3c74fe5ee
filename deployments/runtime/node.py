"""One encoder behind a micro-batcher, with health that means something: the pure part of every encoder node.

In: items from many callers. Out: results. Ray only wraps this class (`serving.py`); `parakh moderate` uses it bare.
Health is told by real forward passes: traffic counts, and an idle node runs the encoder's own example,
so that the last one is never older than MAX_FORWARD_AGE_S.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from pydantic import Field

from deployments.runtime.batcher import BatchObserver, BatchSettings, MicroBatcher
from deployments.runtime.encoder import Encoder
from deployments.runtime.errors import InvalidInput, NodeUnavailable, ParakhError, StuckBatch
from deployments.runtime.values import NodeStatus

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

PROBE_AFTER_S = 12.0  # Serve asks for health every 10 s: an idle node is probed at every second asking
MAX_FORWARD_AGE_S = 30.0


class NodeSettings(BatchSettings):
    """What every encoder node is set by, beside its model."""

    stuck_after_s: float = Field(
        60.0, gt=0, description="A batch running longer than this makes the node sick, and Serve replaces the replica."
    )


class EncoderNode(Generic[Item, Result]):
    """Loads and warms up the encoder in the constructor: a node that exists has done a forward pass.

    Raises:
        MissingWeights, WrongWeights: from the constructor.
    """

    def __init__(
        self, name: str, encoder: Encoder[Item, Result], settings: NodeSettings, observer: BatchObserver | None = None
    ) -> None:
        self.name = name
        self.encoder = encoder
        self.settings = settings
        encoder.load()
        self._warm_up()
        self._last_forward = time.monotonic()
        self._last_error: str | None = None
        self._batcher: MicroBatcher[Item, Result] = MicroBatcher(
            self._encode, settings=settings, weight=encoder.weight, bucket=encoder.bucket, observer=observer
        )

    async def encode(self, item: Item, *, timeout_s: float | None = None) -> Result:
        """One item's result; raises what MicroBatcher.submit raises."""
        return await self._batcher.submit(item, timeout_s=timeout_s)

    async def encode_all(self, items: Sequence[Item], *, timeout_s: float | None = None) -> list[Result]:
        """Several items of one caller, in order; they may ride in different batches. Raises the first error."""
        return list(await asyncio.gather(*(self.encode(item, timeout_s=timeout_s) for item in items)))

    async def status(self) -> NodeStatus:
        """Never raises: a sick node says why."""
        try:
            await self.check_health()
        except ParakhError as error:
            return self._status("sick", reason=str(error))
        return self._status("ready")

    async def check_health(self) -> None:
        """Raise StuckBatch or NodeUnavailable where this replica should be replaced."""
        running_s = self._batcher.oldest_running_s()
        if running_s > self.settings.stuck_after_s:
            raise StuckBatch(f"{self.name}: a batch has been running for {running_s:.0f} s.")
        if time.monotonic() - self._last_forward > PROBE_AFTER_S and running_s == 0:
            await self._probe()
        if time.monotonic() - self._last_forward > MAX_FORWARD_AGE_S and self._last_error is not None:
            raise NodeUnavailable(f"{self.name}: the last forward passes failed ({self._last_error}).")

    async def close(self) -> None:
        await self._batcher.close()

    async def _probe(self) -> None:
        try:
            await self._batcher.submit(self.encoder.example(), timeout_s=self.settings.stuck_after_s)
        except Exception as error:  # whatever a model may raise is a sick node, not a crash of the health check
            logger.exception("%s: the probe's forward pass failed", self.name)
            self._last_error = type(error).__name__

    def _warm_up(self) -> None:
        result = self.encoder.encode([self.encoder.example()])[0]
        if isinstance(result, Exception):
            raise result

    def _encode(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        """Runs in the batcher's thread."""
        try:
            results = self.encoder.encode(items)
        except Exception as error:
            self._last_error = type(error).__name__
            raise
        if any(not isinstance(result, Exception) or isinstance(result, InvalidInput) for result in results):
            self._last_forward, self._last_error = time.monotonic(), None
        return results

    def _status(self, state: Literal["ready", "sick"], reason: str | None = None) -> NodeStatus:
        age_s = round(time.monotonic() - self._last_forward, 1)
        return NodeStatus(self.name, state, reason, last_forward_age_s=age_s, model=self.encoder.card)
