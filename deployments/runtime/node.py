"""One encoder behind a micro-batcher, with its health: all of an encoder node but its Ray wrapper.

In: items from many callers on one event loop. Out: results, stamped with the model that made them.
`parakh moderate` and the tests use it bare; `deployment.py` of each node folder serves it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import Field

from deployments.runtime.batcher import BatchObserver, BatchSettings, MicroBatcher
from deployments.runtime.encoder import Encoder
from deployments.runtime.errors import InvalidInput, NotFound
from deployments.runtime.health import Health
from deployments.runtime.values import NodeStatus

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Item = TypeVar("Item")
Result = TypeVar("Result", bound="DataclassInstance")  # with a field `model`, which the node fills in
In = TypeVar("In")
Out = TypeVar("Out")

_REFUSALS = (InvalidInput, NotFound)  # the request's fault: they tell nothing of the encoder


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
        self.encoder = encoder
        encoder.load()
        self._warm_up()
        self._batcher: MicroBatcher[Item, Result] = MicroBatcher(
            self._encode,
            settings=BatchSettings(
                max_batch_weight=settings.max_batch_weight, max_queue_items=settings.max_queue_items
            ),
            weight=encoder.weight,
            bucket=encoder.bucket,
            observer=observer,
        )
        self._health = Health(
            name,
            probe=lambda: self._batcher.submit(encoder.example(), timeout_s=settings.stuck_after_s),
            running_s=self._oldest_running_s,
            stuck_after_s=settings.stuck_after_s,
        )

    async def encode(self, item: Item, *, timeout_s: float | None = None) -> Result:
        """One item's result; raises what MicroBatcher.submit raises."""
        result = await self._batcher.submit(item, timeout_s=timeout_s)
        return dataclasses.replace(result, model=self.encoder.card)

    async def status(self) -> NodeStatus:
        return await self._health.status(self.encoder.card)

    async def check_health(self) -> None:
        """Asked by Serve; raises where this replica should be replaced."""
        await self._health.check()

    def reconfigure(self, limits: Mapping[str, Any]) -> None:
        """Change `max_batch_weight` or `max_queue_items` while running (Serve's `user_config`); others are refused."""
        self._batcher.settings = BatchSettings.model_validate({**self._batcher.settings.model_dump(), **limits})

    async def close(self) -> None:
        await self._batcher.close()

    def _warm_up(self) -> None:
        result = self.encoder.encode([self.encoder.example()])[0]
        if isinstance(result, Exception):
            raise result

    def _encode(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        """Runs in the batcher's thread."""
        return self._counted(self.encoder.encode, items)

    def _oldest_running_s(self) -> float:
        """Of all work on the encoder; a node with a second way to its encoder adds it here."""
        return self._batcher.oldest_running_s()

    def _counted(
        self, run: Callable[[Sequence[In]], Sequence[Out | Exception]], items: Sequence[In]
    ) -> Sequence[Out | Exception]:
        """A pass that the node's health hears of: good where it gave any result; refusals alone are neither."""
        try:
            results = run(items)
        except _REFUSALS:
            raise
        except Exception as error:
            self._health.failed(error)
            raise
        errors = [result for result in results if isinstance(result, Exception)]
        failures = [error for error in errors if not isinstance(error, _REFUSALS)]
        if len(errors) < len(results):
            self._health.succeeded()
        elif failures:
            self._health.failed(failures[0])
        return results
