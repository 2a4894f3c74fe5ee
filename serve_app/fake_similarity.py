"""Similarity without an index: dictionaries and full scans, for tests of everything around the node.

Duplicates are the same bytes, a near signature or a cosine of almost 1; it can be told to fail.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import InvalidInput, NotFound, WrongEncoder
from deployments.runtime.values import NodeStatus
from deployments.similarity.brute import passes
from deployments.similarity.checks import MAX_K, check_id
from deployments.similarity.content import (
    ANY,
    Bank,
    Content,
    ContentVector,
    EncoderId,
    Match,
    MatchAnswer,
    PartitionKey,
    SearchHit,
    SearchRequest,
    Stage,
    Use,
)
from deployments.similarity.values import IndexStats, Item
from serve_app.similarity import LikeRequest, PartitionStats, SearchAnswer

COSINE, BITS = 0.9999, 31
_BANKS = {Use.KNOWN_BAD: Bank.KNOWN_BAD, Use.PROTECTED: Bank.PROTECTED, Use.DUPLICATE: Bank.POSTS}


@dataclass
class FakeSimilarity:
    errors: list[Exception] = field(default_factory=list)  # raised one by one, before anything is done
    failed: dict[str, str] = field(default_factory=dict)  # use -> reason, in every answer of `match`
    banks: dict[str, dict[str, Content]] = field(default_factory=lambda: {bank: {} for bank in Bank})
    items: dict[str, dict[str, Item]] = field(default_factory=dict)  # partition -> id -> item, brought from outside
    encoders: dict[str, EncoderId] = field(default_factory=dict)  # of those partitions
    shown: dict[str, dict[str, tuple[Content, float]]] = field(default_factory=dict)  # feed -> id -> when
    calls: list[str] = field(default_factory=list)

    async def match(self, content: Content, uses: Sequence[Use]) -> MatchAnswer:
        self._called("match")
        found = [match for use in uses for match in self._matches(content, use)]
        return MatchAnswer(tuple(found), dict(self.failed))

    async def retroactive(self, reference: Content) -> MatchAnswer:
        self._called("retroactive")
        found = [
            match
            for other in self.banks[Bank.POSTS].values()
            if (match := _match(Use.PROTECTED, Bank.POSTS, reference, other)) is not None
        ]
        return MatchAnswer(tuple(found), dict(self.failed))

    async def index(self, contents: Sequence[Content], bank: str = Bank.POSTS) -> None:
        self._called("index")
        for content in contents:
            check_id(content.id)
        self.banks[bank].update({content.id: content for content in contents})

    async def copy(self, source_id: str, content: Content, bank: str = Bank.POSTS) -> bool:
        self._called("copy")
        source = self.banks[bank].get(source_id)
        if source is None:
            return False
        vectors = {"vectors": source.vectors, "signatures": source.signatures, "duration_s": source.duration_s}
        self.banks[bank][content.id] = dataclasses.replace(content, **vectors)  # type: ignore[arg-type]
        return True

    async def remove(self, id: str, bank: str = Bank.POSTS) -> None:
        self._called("remove")
        self.banks[bank].pop(id, None)
        if bank == Bank.SHOWN:
            for marks in self.shown.values():
                marks.pop(id, None)

    async def search(self, request: SearchRequest) -> SearchAnswer:
        self._called("search")
        rows = self._rows(request)
        if not 1 <= request.k <= MAX_K:
            raise InvalidInput(f"k must be a whole number between 1 and {MAX_K}.", param="k")
        if any(len(item.vector) != len(request.vector) for item, _ in rows):
            raise InvalidInput("The vector has another dimension than the index.", param="vector")
        hits = [
            SearchHit(
                item.id,
                partition,
                cosine(request.vector, item.vector),
                item.created_at,
                item.language,
                item.content_type,
                item.attributes,
            )
            for item, partition in rows
        ]
        hits = [hit for hit in hits if request.threshold is None or hit.score >= request.threshold]
        return SearchAnswer(sorted(hits, key=lambda hit: -hit.score)[: request.k])

    async def more_like(self, id: str, request: LikeRequest) -> SearchAnswer:
        content = self.banks[Bank.POSTS].get(id)
        modality = request.modality or next(iter(content.vectors if content else ()), None)
        if content is None or modality is None or modality not in content.vectors:
            raise NotFound(f"There is nothing in the index under the id {id!r}.", param="id")
        found = content.vectors[modality]
        others = dataclasses.replace(request.filter, exclude_ids=frozenset({id}))
        return await self.search(
            SearchRequest(
                found.encoder,
                found.vector,
                modality,
                k=request.k,
                threshold=request.threshold,
                filter=others,
                exact=request.exact,
            )
        )

    async def ids(self, bank: str, after: str = "", limit: int = 1000) -> list[str]:
        self._called("ids")
        return sorted((id_ for id_ in self.banks[bank] if id_.encode() > after.encode()), key=str.encode)[:limit]

    async def has(self, id: str, bank: str) -> bool:
        self._called("has")
        there = (items for partition, items in self.items.items() if partition.startswith(f"{bank}."))
        return id in self.banks[bank] or any(id in items for items in there)

    async def partitions(self) -> list[PartitionStats]:
        self._called("partitions")
        found: dict[str, list[Content]] = {}
        for bank, contents in self.banks.items():
            for content in contents.values():
                for modality in content.vectors:
                    found.setdefault(_partition(bank, content, modality), []).append(content)
        return [_stats(name, contents) for name, contents in sorted(found.items())]

    async def upsert_items(self, partition: str, encoder: EncoderId, items: Sequence[Item]) -> None:
        self._called("upsert_items")
        PartitionKey.parse(partition)
        held = self.encoders.setdefault(partition, encoder)
        if held != encoder:
            raise WrongEncoder
        for item in items:
            check_id(item.id)
            if not np.isfinite(item.vector).all() or not np.any(item.vector):
                raise InvalidInput("The vector must be finite and not zero.", param="vector")
        self.items.setdefault(partition, {}).update({item.id: item for item in items})

    async def delete_items(self, partition: str, ids: Sequence[str]) -> int:
        self._called("delete_items")
        PartitionKey.parse(partition)
        if partition not in self.items:
            raise NotFound("There is no such partition.", param="partition")
        return sum(self.items[partition].pop(id_, None) is not None for id_ in ids)

    async def mark_shown(self, content: Content, feed: str, at: float) -> None:
        self._called("mark_shown")
        whole = content if content.vectors or content.signatures else self.banks[Bank.POSTS].get(content.id)
        if whole is None:
            raise NotFound(f"There is nothing in the index under the id {content.id!r}.", param="id")
        self.shown.setdefault(feed, {})[content.id] = (whole, at)

    async def was_shown(self, content: Content, feed: str, within_s: float) -> MatchAnswer:
        self._called("was_shown")
        since = time.time() - within_s
        lately = {id_: other for id_, (other, at) in self.shown.get(feed, {}).items() if at >= since}
        whole = content if content.vectors or content.signatures else self.banks[Bank.POSTS].get(content.id, content)
        itself = lately.pop(content.id, None)
        found = [_told(Use.SIMILAR, itself, f"shown.{feed}.any.visual", Stage.SHA256)] if itself else []
        others = (_match(Use.SIMILAR, Bank.SHOWN, whole, other) for other in lately.values())
        return MatchAnswer((*found, *(match for match in others if match is not None)))

    async def status(self) -> NodeStatus:
        return NodeStatus("similarity", "ready", None, 0.0)

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if self.errors:
            raise self.errors.pop(0)

    def _matches(self, content: Content, use: Use) -> Iterator[Match]:
        negative = self.banks[Bank.NEGATIVE].values()
        if any(_match(use, Bank.NEGATIVE, content, other) for other in negative):
            return
        for other in self.banks[_BANKS[use]].values():
            match = None if other.id == content.id else _match(use, _BANKS[use], content, other)
            if match is not None:
                yield match

    def _rows(self, request: SearchRequest) -> list[tuple[Item, str]]:
        rows = [
            (item, partition)
            for partition, items in self.items.items()
            for item in items.values()
            if self.encoders[partition] == request.encoder and partition.startswith(f"{request.bank}.")
        ]
        for content in self.banks[request.bank].values():
            vector = content.vectors.get(request.modality)
            if vector is not None and vector.encoder == request.encoder:
                item = Item(
                    content.id,
                    vector.vector,
                    content.created_at,
                    content.language,
                    content.content_type,
                    content.attributes,
                )
                rows.append((item, _partition(request.bank, content, request.modality)))
        return [
            (item, partition)
            for item, partition in rows
            if request.partition in (None, partition) and passes(item, request.filter)
        ]


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _match(use: Use, bank: Bank, content: Content, other: Content) -> Match | None:
    if content.sha256 is not None and content.sha256 == other.sha256:
        modality = next(iter(other.vectors), "visual")
        return _told(use, other, _partition(bank, other, modality), Stage.SHA256)
    bits = _nearest_bits(content, other)
    if bits is not None and bits <= BITS:
        key = PartitionKey(bank, ANY, ANY, "pdq")
        return _told(use, other, str(key), Stage.PDQ, distance=bits, threshold=BITS)
    for modality, vector in content.vectors.items():
        found: ContentVector | None = other.vectors.get(modality)
        if found is not None and found.encoder == vector.encoder and cosine(found.vector, vector.vector) >= COSINE:
            score = cosine(found.vector, vector.vector)
            partition = _partition(bank, other, modality)
            return _told(use, other, partition, Stage.EMBEDDING, score=score, threshold=COSINE)
    return None


def _told(
    use: Use,
    other: Content,
    partition: str,
    stage: Stage,
    score: float | None = None,
    distance: float | None = None,
    threshold: float | None = None,
) -> Match:
    return Match(use, other.id, partition, stage, score, distance, threshold, (), other.duration_s, other.attributes)


def _nearest_bits(content: Content, other: Content) -> float | None:
    if content.signatures is None or other.signatures is None:
        return None
    ours = content.signatures.hashes[content.signatures.quality >= 50]
    theirs = other.signatures.hashes[other.signatures.quality >= 50]
    if not len(ours) or not len(theirs):
        return None
    return float(np.bitwise_count(ours[:, None, :] ^ theirs[None, :, :]).sum(axis=2).min())


def _partition(bank: str, content: Content, modality: str) -> str:
    return str(PartitionKey(bank, content.language, content.content_type, modality))


def _stats(name: str, contents: list[Content]) -> PartitionStats:
    vector = contents[0].vectors[PartitionKey.parse(name).modality]
    memory = sum(content.vectors[PartitionKey.parse(name).modality].vector.nbytes for content in contents)
    newest = max(content.created_at for content in contents)
    stats = IndexStats(len(contents), memory, 0, 0, 0, 0, 0, newest, None, recall_estimate=1.0)
    return PartitionStats(name, vector.encoder, len(vector.vector), "FLAT", "cosine", stats)
