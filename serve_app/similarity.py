"""What the application asks of the similarity node: one small protocol, filled by Ray handles (`graph.py`), by the
node itself in this process (`local_nodes.py`), or by the fake in tests.

Beside it `KnownContent`: what the records know of content by its digests, asked before any encoder runs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from deployments.runtime.errors import NotFound
from deployments.runtime.values import ContentType, NodeStatus
from deployments.similarity.content import Bank, Content, EncoderId, MatchAnswer, SearchHit, SearchRequest, Use
from deployments.similarity.values import Filter, IndexStats, Item
from serve_app.posts import Verdict

MATCH_USES = (Use.KNOWN_BAD, Use.PROTECTED, Use.DUPLICATE)
"""What every post is looked up for."""


class SimilarityOff(NotFound):
    code = "similarity_off"
    message = "This server runs without similarity search."


@dataclass(frozen=True)
class PartitionStats:
    """One partition as the API lists it."""

    partition: str
    encoder: EncoderId | None  # None where the partition is damaged
    dimension: int | None
    index_type: str | None
    metric: str | None
    stats: IndexStats | None
    thresholds: Mapping[str, float] = field(default_factory=dict)  # use -> worst score or distance that is a match
    damaged: str | None = None  # why it refuses


@dataclass(frozen=True)
class LikeRequest:
    """How to look for more like something that is indexed."""

    modality: str | None = None  # None: the first of visual, audio, text that it has
    k: int = 10
    threshold: float | None = None
    filter: Filter = field(default_factory=Filter)
    exact: bool = False


@dataclass(frozen=True)
class SearchAnswer:
    hits: Sequence[SearchHit]  # best first
    failed: Mapping[str, str] = field(default_factory=dict)  # partition -> why it was not searched


class Similarity(Protocol):
    """Every method may raise NodeUnavailable, Overloaded and InvalidInput. Writes are idempotent, and durable and
    findable when they return.
    """

    async def match(self, content: Content, uses: Sequence[Use]) -> MatchAnswer: ...

    async def retroactive(self, reference: Content) -> MatchAnswer:
        """Posts of any age that match a protected work."""
        ...

    async def index(self, contents: Sequence[Content], bank: str = Bank.POSTS) -> None:
        """Everything of each, in place of what was there under its id."""
        ...

    async def copy(self, source_id: str, content: Content, bank: str = Bank.POSTS) -> bool:
        """Index `content` with the vectors and signatures of `source_id`; False where those are not there."""
        ...

    async def remove(self, id: str, bank: str = Bank.POSTS) -> None: ...

    async def search(self, request: SearchRequest) -> SearchAnswer: ...

    async def more_like(self, id: str, request: LikeRequest) -> SearchAnswer:
        """Raises NotFound."""
        ...

    async def ids(self, bank: str, after: str = "", limit: int = 1000) -> list[str]:
        """Ids of indexed content greater than `after`, in the order of their UTF-8 bytes."""
        ...

    async def has(self, id: str, bank: str) -> bool:
        """Whether anything is indexed under this id; IndexDamaged where a partition cannot tell."""
        ...

    async def partitions(self) -> list[PartitionStats]: ...

    async def upsert_items(self, partition: str, encoder: EncoderId, items: Sequence[Item]) -> None:
        """All or none. Raises PartitionConflict where the partition holds vectors of another encoder."""
        ...

    async def delete_items(self, partition: str, ids: Sequence[str]) -> int:
        """How many were there. Raises NotFound for an unknown partition."""
        ...

    async def mark_shown(self, content: Content, feed: str, at: float) -> None:
        """`content` may be no more than the id of an indexed post. Raises NotFound."""
        ...

    async def was_shown(self, content: Content, feed: str, within_s: float) -> MatchAnswer: ...

    async def status(self) -> NodeStatus: ...


@dataclass(frozen=True)
class Digests:
    """Of a file's bytes, hexadecimal."""

    md5: str
    sha1: str
    sha256: str


@dataclass(frozen=True)
class ListedDigest:
    """A digest that stands on a hash list."""

    list_name: str
    algorithm: str
    digest: str
    labels: Sequence[str]


@dataclass(frozen=True)
class SameContent:
    """What makes a post an exact re-upload of another."""

    post_id: str  # of the new post: never its own original
    media_sha256: str
    content_type: ContentType
    caption: str
    language: str | None  # as the client gave it
    policy_version: str


class KnownContent(Protocol):
    """Raises RecordsUnavailable."""

    async def listed(self, digests: Digests) -> list[ListedDigest]: ...

    async def original(self, content: SameContent) -> Verdict | None:
        """The latest verdict on the same content that may be reused: all of it was judged, and since then neither
        references nor hash lists have changed.
        """
        ...

    async def actions(self, post_ids: Collection[str]) -> Mapping[str, str]:
        """Post id -> action of its newest verdict, of those that have one."""
        ...


class NothingKnown:
    """KnownContent without records: for files judged on the command line."""

    async def listed(self, digests: Digests) -> list[ListedDigest]:
        return []

    async def original(self, content: SameContent) -> Verdict | None:
        return None

    async def actions(self, post_ids: Collection[str]) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True)
class IndexJob:
    """One item that the index must take in, copy or let go: the last word on it, until another is said."""

    bank: str
    id: str
    op: str  # index, copy or remove
    token: str  # tells this word from a later one
    attempts: int  # this one included
    created_at: datetime
    content: Content | None = None  # index and copy: for copy without vectors
    source_id: str | None = None  # copy: whose vectors
