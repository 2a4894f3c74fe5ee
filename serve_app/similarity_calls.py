"""`Similarity` over the similarity node, wherever it runs: in this process, or behind a Ray handle.

Every call goes through one function, `ask(method, *arguments)`: what answers it is the only difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from deployments.runtime.values import NodeStatus
from deployments.similarity.content import Bank, Content, EncoderId, MatchAnswer, SearchRequest, Use
from deployments.similarity.partitions.listing import PartitionInfo
from deployments.similarity.values import Item
from serve_app.similarity import LikeRequest, PartitionStats, SearchAnswer


class Ask(Protocol):
    """Calls a method of the similarity node. Raises ParakhError subclasses."""

    async def __call__(self, method: str, *arguments: Any, **named: Any) -> Any: ...


class SimilarityCalls:
    """Similarity over `ask`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def match(self, content: Content, uses: Sequence[Use]) -> MatchAnswer:
        answer: MatchAnswer = await self._ask("match", content, tuple(uses))
        return answer

    async def retroactive(self, reference: Content) -> MatchAnswer:
        answer: MatchAnswer = await self._ask("match_past", reference)
        return answer

    async def index(self, contents: Sequence[Content], bank: str = Bank.POSTS) -> None:
        await self._ask("index_many", list(contents), bank)

    async def copy(self, source_id: str, content: Content, bank: str = Bank.POSTS) -> bool:
        return bool(await self._ask("copy", source_id, content, bank))

    async def remove(self, id: str, bank: str = Bank.POSTS) -> None:
        await self._ask("remove", id, bank)

    async def search(self, request: SearchRequest) -> SearchAnswer:
        found = await self._ask("search_told", request)
        return SearchAnswer(found.hits, found.failed)

    async def more_like(self, id: str, request: LikeRequest) -> SearchAnswer:
        found = await self._ask(
            "more_like",
            id,
            modality=request.modality,
            k=request.k,
            threshold=request.threshold,
            filter=request.filter,
            exact=request.exact,
        )
        return SearchAnswer(found.hits, found.failed)

    async def ids(self, bank: str, after: str = "", limit: int = 1000) -> list[str]:
        return list(await self._ask("ids", bank, after, limit))

    async def has(self, id: str, bank: str) -> bool:
        return bool(await self._ask("has", id, bank))

    async def partitions(self) -> list[PartitionStats]:
        return [_stats(info) for info in await self._ask("partitions")]

    async def upsert_items(self, partition: str, encoder: EncoderId, items: Sequence[Item]) -> None:
        await self._ask("upsert_items", partition, encoder, list(items))

    async def delete_items(self, partition: str, ids: Sequence[str]) -> int:
        return int(await self._ask("delete_items", partition, list(ids)))

    async def mark_shown(self, content: Content, feed: str, at: float) -> None:
        await self._ask("mark_shown", content, feed, at)

    async def was_shown(self, content: Content, feed: str, within_s: float) -> MatchAnswer:
        answer: MatchAnswer = await self._ask("was_shown", content, feed, within_s)
        return answer

    async def status(self) -> NodeStatus:
        status: NodeStatus = await self._ask("status")
        return status


def _stats(info: PartitionInfo) -> PartitionStats:
    settings = info.settings
    return PartitionStats(
        partition=str(info.key),
        encoder=info.encoder,
        dimension=info.dimension,
        index_type=settings.index_type if settings else None,
        metric=settings.metric if settings else None,
        stats=info.stats,
        thresholds=dict(info.thresholds),
        damaged=info.damaged,
    )
