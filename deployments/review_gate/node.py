"""The review gate without Ray: posts at a milestone in, decisions out, many callers batched into one pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

from deployments.review_gate.loading import load_gate
from deployments.review_gate.settings import GateSettings
from deployments.review_gate.values import AuthorHistory, GateDecision, GateInput
from deployments.runtime.batcher import BatchObserver, BatchSettings, MicroBatcher
from deployments.runtime.errors import InvalidInput
from deployments.runtime.health import Health
from deployments.runtime.values import NodeStatus

Posts = Sequence[GateInput]
Decisions = list[GateDecision | InvalidInput]


class GateNode:
    """Raises MissingWeights or WrongWeights from the constructor."""

    def __init__(self, settings: GateSettings, observer: BatchObserver | None = None) -> None:
        self.gate, self.card = load_gate(settings)
        self.gate.decide(example())
        self._most = settings.max_batch_weight
        self._batcher: MicroBatcher[Posts, Decisions] = MicroBatcher(
            self._decide,
            settings=BatchSettings(
                max_batch_weight=settings.max_batch_weight, max_queue_items=settings.max_queue_items
            ),
            weight=len,
            observer=observer,
        )
        self._health = Health(
            "review_gate",
            probe=lambda: self.decide(example(), timeout_s=settings.stuck_after_s),
            running_s=self._batcher.oldest_running_s,
            stuck_after_s=settings.stuck_after_s,
        )

    async def decide(self, post: GateInput, *, timeout_s: float | None = None) -> GateDecision:
        """Raises InvalidInput for a post that cannot be, and what MicroBatcher.submit raises."""
        result = (await self._batcher.submit([post], timeout_s=timeout_s))[0]
        if isinstance(result, InvalidInput):
            raise result
        return result

    async def decide_many(self, posts: Posts, *, timeout_s: float | None = None) -> Decisions:
        """Of each post, in order, its decision or its own refusal; raises what MicroBatcher.submit raises."""
        parts = [posts[start : start + self._most] for start in range(0, len(posts), self._most)]
        decided = await asyncio.gather(*(self._batcher.submit(part, timeout_s=timeout_s) for part in parts))
        return [decision for part in decided for decision in part]

    async def status(self) -> NodeStatus:
        return await self._health.status(self.card)

    async def check_health(self) -> None:
        await self._health.check()

    async def close(self) -> None:
        await self._batcher.close()

    def _decide(self, asked: Sequence[Posts]) -> list[Decisions]:
        """All that was asked for in one pass, in the batcher's thread; refusals tell nothing of the gate."""
        try:
            decided = self.gate.decide_many([post for posts in asked for post in posts])
        except Exception as error:
            self._health.failed(error)
            raise
        if any(not isinstance(decision, InvalidInput) for decision in decided):
            self._health.succeeded()
        remaining = iter(decided)
        return [list(islice(remaining, len(posts))) for posts in asked]


def example() -> GateInput:
    """A post at a milestone that passes the whole gate."""
    reached = datetime.now(UTC) - timedelta(minutes=1)
    return GateInput(
        post_id="example",
        milestone=1000,
        views=1000,
        nsfw_score=0.5,
        category_scores={},
        language=None,
        content_type="image",
        created_at=reached - timedelta(hours=5),
        reached_at=reached,
        history=AuthorHistory("ok", 20, 7, 180, reached),
    )
