"""Of one partition: what lies near the content that is asked about, verified, as matches.

PDQ signatures of frames find candidates within some bits, vectors of the same encoder find candidates above a cosine;
`verifying` holds each against the whole of both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deployments.similarity.checks import MAX_K
from deployments.similarity.content import (
    ANY,
    PDQ_ENCODER,
    Content,
    ContentVector,
    IndexedModality,
    Match,
    PartitionKey,
    Stage,
    Use,
)
from deployments.similarity.node_settings import MAX_SIGNATURES, SimilaritySettings
from deployments.similarity.partitions.watched import WatchedPartitions
from deployments.similarity.uses.entries import (
    candidate_id,
    content_id,
    given_attributes,
    item_ids,
    own,
    signatures_of,
)
from deployments.similarity.uses.settings import UseSettings
from deployments.similarity.uses.signatures import spread, trusted
from deployments.similarity.uses.verifying import Verified, verify_signatures, verify_vectors
from deployments.similarity.values import Filter, Item, Neighbours


@dataclass(frozen=True)
class Scope:
    """Where one question is asked: a bank, and of it what is named."""

    bank: str
    language: str | None = None  # None: all of them
    created_from: float | None = None
    limit: int | None = None  # matches; None: as the settings say

    @property
    def filter(self) -> Filter | None:
        return None if self.created_from is None else Filter(created_from=self.created_from)

    def keys(self, watched: WatchedPartitions, modality: str, content_types: frozenset[str]) -> Sequence[PartitionKey]:
        return [
            key
            for key in watched.partitions.keys_of(self.bank)
            if key.modality == modality
            and key.content_type in content_types | {ANY}
            and self.language in (None, key.language)
        ]


@dataclass(frozen=True)
class Question:
    """What is asked, and what counts as an answer."""

    content: Content
    use: Use
    counts: UseSettings
    scope: Scope
    full: set[PartitionKey] = field(default_factory=set)  # partitions that gave as many candidates as were asked for


class Candidates:
    """Every method raises what the partition's search raises."""

    def __init__(self, watched: WatchedPartitions, settings: SimilaritySettings) -> None:
        self._watched = watched
        self._settings = settings

    def by_signatures(self, key: PartitionKey, question: Question) -> Iterator[Match]:
        content, use = question.content, question.use
        bits = question.counts.threshold(IndexedModality.PDQ, PDQ_ENCODER.name)
        if bits is None or content.signatures is None:
            return
        asked = spread(content.signatures, self._settings.query_signatures, self._settings.pdq_quality)
        if not len(asked.hashes):
            return
        limit = self._limit(question.scope)
        found = self._watched.search(
            key,
            PDQ_ENCODER,
            list(asked.hashes),
            min(MAX_K, limit + MAX_SIGNATURES),  # its own signatures, where it is indexed, take places too
            use=use,
            filter=question.scope.filter,
            threshold=bits,
        )
        if any(len(neighbours.ids) >= min(MAX_K, limit + MAX_SIGNATURES) for neighbours in found):
            question.full.add(key)
        near = _by_candidate(found, key)
        near.pop(content.id, None)
        if len(near) > limit:
            question.full.add(key)
        for other in sorted(near, key=lambda other: (-near[other].frames, near[other].distance))[:limit]:
            distances = near[other].items
            items = self._watched.get(key, [*item_ids(other, key), *distances], use=use)
            for together in _by_content(items.values()):
                distance = min((distances[item.id] for item in together if item.id in distances), default=None)
                verified = None if distance is None else self._verified_signatures(question, together, int(bits))
                if verified is not None:
                    yield _match(question, key, together[0], Stage.PDQ, None, distance, bits, verified)

    def by_vector(
        self, key: PartitionKey, question: Question, vector: ContentVector, threshold: float
    ) -> Iterator[Match]:
        (found,) = self._watched.search(
            key,
            vector.encoder,
            [vector.vector],
            self._limit(question.scope),
            use=question.use,
            filter=question.scope.filter,
            threshold=threshold,
        )
        if len(found.ids) >= self._limit(question.scope):
            question.full.add(key)
        others = [id_ for id_ in found.ids if id_ != question.content.id]
        items = self._watched.get(key, others, use=question.use)
        for id_, score in zip(found.ids, found.scores, strict=True):
            item = items.get(id_)
            if item is None or not enabled(item):
                continue
            verified = verify_vectors(
                vector.frames,
                item.frames,
                threshold,
                question.counts,
                duration_s=question.content.duration_s,
                other_duration_s=own(item).get("duration_s"),
            )
            if verified is not None:
                yield _match(question, key, item, Stage.EMBEDDING, float(score), None, threshold, verified)

    def _verified_signatures(self, question: Question, items: Sequence[Item], bits: int) -> Verified | None:
        content = question.content
        if content.signatures is None or not enabled(items[0]):
            return None
        return verify_signatures(
            trusted(content.signatures, self._settings.pdq_quality),
            signatures_of(items),
            bits,
            question.counts,
            self._settings.pdq_quality,
            duration_s=_moving(content.content_type, content.duration_s),
            other_duration_s=_moving(items[0].content_type, own(items[0]).get("duration_s")),
        )

    def _limit(self, scope: Scope) -> int:
        """More than are told: some fail the checks, or are switched off."""
        return min(MAX_K, 3 * (scope.limit or self._settings.max_matches) + 10)


def enabled(item: Item) -> bool:
    """References are switched off by an attribute."""
    return item.attributes.get("enabled", True) is not False


@dataclass
class _Near:
    """What of one candidate lies near the frames asked about."""

    frames: int = 0  # of the frames asked about
    distance: float = float("inf")  # best, in bits
    items: dict[str, float] = field(default_factory=dict)  # item id -> its best distance


def _by_candidate(found: Sequence[Neighbours], key: PartitionKey) -> dict[str, _Near]:
    near: dict[str, _Near] = defaultdict(_Near)
    for neighbours in found:
        for id_, score in zip(neighbours.ids, neighbours.scores, strict=True):
            one = near[candidate_id(id_, key)]
            one.items[id_] = min(float(score), one.items.get(id_, float("inf")))
            one.distance = min(one.distance, float(score))
        for candidate in {candidate_id(id_, key) for id_ in neighbours.ids}:
            near[candidate].frames += 1
    return dict(near)


def _by_content(items: Iterable[Item]) -> list[list[Item]]:
    """Ids alone cannot tell a signature from something put there by hand under such an id; the items can."""
    contents: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        contents[content_id(item)].append(item)
    return list(contents.values())


def _match(
    question: Question,
    key: PartitionKey,
    item: Item,
    stage: Stage,
    score: float | None,
    distance: float | None,
    threshold: float,
    verified: Verified,
) -> Match:
    about: Mapping[str, object] = own(item)
    duration_s = about.get("duration_s")
    match = Match(
        use=question.use,
        id=content_id(item),
        partition=str(key),
        stage=stage,
        score=score,
        distance=distance,
        threshold=float(threshold),
        segments=verified.segments,
        duration_s=float(duration_s) if isinstance(duration_s, int | float) else None,
        attributes=given_attributes(item),
    )
    if question.content.sha256 is not None and about.get("sha256") == question.content.sha256:
        return replace(match, stage=Stage.SHA256, score=None, distance=None, threshold=None)
    return match


def _moving(content_type: str, duration_s: float | None) -> float | None:
    return None if content_type == "image" else duration_s
