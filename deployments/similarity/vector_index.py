"""The protocol of a vector index; one conformance suite (tests/similarity) holds every backend to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from deployments.similarity.settings import IndexSettings
from deployments.similarity.spaces import Space
from deployments.similarity.values import Filter, IndexStats, Item, Neighbours


class VectorIndex(Protocol):
    """Every method may be called from any thread. A call that raises InvalidInput has changed nothing."""

    @property
    def space(self) -> Space: ...

    @property
    def settings(self) -> IndexSettings: ...

    def upsert(self, items: Sequence[Item]) -> None:
        """Add items, or replace those whose id is there. On return they are durable and findable.

        The last of several items of one id wins. All or none.

        Raises:
            InvalidInput: wrong dimension or dtype, NaN or infinity, a zero vector under cosine, a bad id,
                attributes that are not JSON or too long.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """How many of them were there. On return they are gone, durably, and found no more."""
        ...

    def get(self, ids: Sequence[str]) -> dict[str, Item]:
        """The stored items among `ids`, vectors as stored (normalised under cosine, to the row's precision)."""
        ...

    def search(
        self,
        queries: NDArray[Any] | Sequence[NDArray[Any]],
        k: int,
        *,
        filter: Filter | None = None,
        threshold: float | None = None,
        exact: bool = False,
    ) -> list[Neighbours]:
        """The `k` nearest of each query, exact scores, best first; fewer where there are fewer.

        queries: (n, d), as `Item.vector` is. threshold: the worst score that counts (a similarity at least, a distance
        at most). exact: look at every row.

        Raises InvalidInput as `upsert`, and where `k` is not in 1..MAX_K (`checks`).
        """
        ...

    def count(self) -> int: ...

    def scan(self, after: str = "", limit: int = 1000) -> list[str]:
        """Ids greater than `after` in the order of their UTF-8 bytes: for reconciliation and export."""
        ...

    def stats(self) -> IndexStats: ...

    def close(self) -> None:
        """Everything acknowledged is durable already; frees the lock and the memory. Calls after it raise."""
        ...
