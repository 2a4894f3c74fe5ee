"""Which known content does this match, for which use, and why: one call, one explanation for each match.

For each use: its bank, every language of it. PDQ signatures of frames find candidates within some bits; vectors of the
same encoder find candidates above a cosine; each candidate is verified as a whole (`verifying`). What the negative
bank knows is taken out of the question first. Of several ways to the same content the surest is told. A partition that
fails is named under `failed`, and the others answer.

Still pictures, gifs and videos meet by their frames' signatures: for references and hash lists all with all, for
duplicates a still never with a video. Vectors meet within one content type; sound, for references, in all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from deployments.runtime.errors import InvalidInput, ParakhError, WrongEncoder
from deployments.similarity.checks import MAX_K
from deployments.similarity.content import (
    ANY,
    PDQ_ENCODER,
    Bank,
    Content,
    ContentVector,
    FrameSignatures,
    IndexedModality,
    Match,
    MatchAnswer,
    MatchedSegment,
    PartitionKey,
    Stage,
    Use,
)
from deployments.similarity.entries import (
    candidate_id,
    check_content,
    content_id,
    given_attributes,
    item_ids,
    own,
    signatures_of,
)
from deployments.similarity.node_settings import MAX_SIGNATURES, SimilaritySettings
from deployments.similarity.signatures import spread, trusted
from deployments.similarity.uses import UseSettings
from deployments.similarity.values import Filter, Item, Neighbours
from deployments.similarity.verifying import verify_signatures, verify_vectors
from deployments.similarity.watched import WatchedPartitions

_BANKS = {Use.KNOWN_BAD: Bank.KNOWN_BAD, Use.PROTECTED: Bank.PROTECTED, Use.DUPLICATE: Bank.POSTS}
_SUPPRESSED = (Use.PROTECTED, Use.DUPLICATE)  # nobody silences a list of known-bad content with a reference
_SEEN = frozenset({"video", "image", "gif"})
_NEAR_SEEN = {
    "image": frozenset({"image", "gif"}),
    "gif": _SEEN,
    "video": frozenset({"gif", "video"}),
}
_RANK = {stage: rank for rank, stage in enumerate(Stage)}


@dataclass(frozen=True)
class Scope:
    """Where one question is asked: a bank, and of it what is named."""

    bank: str
    language: str | None = None  # None: all of them
    created_from: float | None = None
    limit: int | None = None  # matches; None: as the settings say


class Matching:
    def __init__(self, watched: WatchedPartitions, settings: SimilaritySettings) -> None:
        self._watched = watched
        self._settings = settings

    def match(self, content: Content, uses: Iterable[Use]) -> MatchAnswer:
        """Never content of the same id. Raises InvalidInput for content that no index could take."""
        check_content(content)
        uses = tuple(dict.fromkeys(uses))
        if any(use not in _BANKS for use in uses):
            raise InvalidInput("Content is matched for known_bad, protected and duplicate.", param="uses")
        wanted = [use for use in uses if self._settings.use(use).enabled]
        suppressed, unsaid = self._without_negative(content) if set(wanted) & set(_SUPPRESSED) else (content, [])
        matches: list[Match] = []
        failed: dict[str, str] = {}
        for use in wanted:
            asked = suppressed if use in _SUPPRESSED else content
            found, reasons = self.within(asked, use, Scope(_BANKS[use]))
            matches += found
            reasons += unsaid if use in _SUPPRESSED else []
            if reasons:
                failed[str(use)] = "; ".join(reasons)
        return MatchAnswer(tuple(matches), failed)

    def retroactive(self, reference: Content, limit: int = 200) -> MatchAnswer:
        """Past posts that a new reference matches: `id` is the post's, the segments' `other` seconds too."""
        check_content(reference)
        if not self._settings.protected.enabled:
            return MatchAnswer()
        asked, reasons = self._without_negative(reference)
        matches, more = self.within(asked, Use.PROTECTED, Scope(Bank.POSTS, limit=limit))
        reasons += more
        return MatchAnswer(tuple(matches), {str(Use.PROTECTED): "; ".join(reasons)} if reasons else {})

    def within(self, content: Content, use: Use, scope: Scope) -> tuple[list[Match], list[str]]:
        """(matches, best first; why what was not searched), with the thresholds and checks of `use`."""
        settings = self._settings.use(use)
        reasons: list[str] = []
        best: dict[str, Match] = {}
        for match in (
            *self._by_signatures(content, use, settings, scope, reasons),
            *self._by_vectors(content, use, settings, scope, reasons),
        ):
            known = best.get(match.id)
            if known is None or _order(match) < _order(known):
                best[match.id] = match
        limit = scope.limit or self._settings.max_matches
        return sorted(best.values(), key=_order)[:limit], reasons

    # --- by signatures ---

    def _by_signatures(
        self, content: Content, use: Use, settings: UseSettings, scope: Scope, reasons: list[str]
    ) -> Iterator[Match]:
        bits = settings.threshold(IndexedModality.PDQ, PDQ_ENCODER.name)
        asked = self._asked(content)
        if bits is None or asked is None:
            return
        types = _NEAR_SEEN.get(content.content_type, _SEEN) if use is Use.DUPLICATE else _SEEN
        for key in self._keys(scope, IndexedModality.PDQ, types):
            try:
                yield from self._signature_matches(key, content, asked, int(bits), use, settings, scope)
            except ParakhError as error:
                reasons.append(f"{key}: {error}")

    def _asked(self, content: Content) -> FrameSignatures | None:
        if content.signatures is None:
            return None
        asked = spread(content.signatures, self._settings.query_signatures, self._settings.pdq_quality)
        return asked if len(asked.hashes) else None

    def _signature_matches(
        self,
        key: PartitionKey,
        content: Content,
        asked: FrameSignatures,
        bits: int,
        use: Use,
        settings: UseSettings,
        scope: Scope,
    ) -> Iterator[Match]:
        limit = self._candidates(scope)
        found = self._watched.search(
            key,
            PDQ_ENCODER,
            list(asked.hashes),
            min(MAX_K, limit + MAX_SIGNATURES),  # its own signatures, where it is indexed, take places too
            use=use,
            filter=_since(scope),
            threshold=bits,
        )
        near = _by_candidate(found, key)
        near.pop(content.id, None)
        ours = trusted(content.signatures or asked, self._settings.pdq_quality)
        for other in sorted(near, key=lambda other: (-near[other].frames, near[other].distance))[:limit]:
            ids = near[other].items
            for items in _by_content(self._watched.get(key, [*item_ids(other, key), *ids], use=use).values()):
                bits_off = min((ids[item.id] for item in items if item.id in ids), default=None)
                if bits_off is None or not _enabled(items[0]):
                    continue
                verified = verify_signatures(
                    ours,
                    signatures_of(items),
                    bits,
                    settings,
                    self._settings.pdq_quality,
                    duration_s=_moving(content.content_type, content.duration_s),
                    other_duration_s=_moving(items[0].content_type, own(items[0]).get("duration_s")),
                )
                if verified is not None:
                    yield _match(content, use, key, items[0], Stage.PDQ, None, bits_off, bits, verified.segments)

    # --- by vectors ---

    def _by_vectors(
        self, content: Content, use: Use, settings: UseSettings, scope: Scope, reasons: list[str]
    ) -> Iterator[Match]:
        for modality, vector in content.vectors.items():
            threshold = settings.threshold(modality, vector.encoder.name)
            if threshold is None or not _compared(content.content_type, modality, use):
                continue
            types = frozenset({content.content_type})
            if use is Use.PROTECTED and modality == IndexedModality.AUDIO:
                types = frozenset({"audio", "video"})
            for key in self._keys(scope, modality, types):
                try:
                    if self._watched.partitions.encoder(key) != vector.encoder:
                        continue  # vectors of two encoders do not compare
                    yield from self._vector_matches(key, content, vector, threshold, use, settings, scope)
                except WrongEncoder:  # switched at this moment
                    continue
                except ParakhError as error:
                    reasons.append(f"{key}: {error}")

    def _vector_matches(
        self,
        key: PartitionKey,
        content: Content,
        vector: ContentVector,
        threshold: float,
        use: Use,
        settings: UseSettings,
        scope: Scope,
    ) -> Iterator[Match]:
        limit = self._candidates(scope)
        (found,) = self._watched.search(
            key, vector.encoder, [vector.vector], limit, use=use, filter=_since(scope), threshold=threshold
        )
        items = self._watched.get(key, [id_ for id_ in found.ids if id_ != content.id], use=use)
        for id_, score in zip(found.ids, found.scores, strict=True):
            item = items.get(id_)
            if item is None or not _enabled(item):
                continue
            verified = verify_vectors(
                vector.frames,
                item.frames,
                threshold,
                settings,
                duration_s=content.duration_s,
                other_duration_s=own(item).get("duration_s"),
            )
            if verified is not None:
                yield _match(content, use, key, item, Stage.EMBEDDING, float(score), None, threshold, verified.segments)

    # --- the negative bank ---

    def _without_negative(self, content: Content) -> tuple[Content, list[str]]:
        """The content without the frames, and the vectors, that the negative bank knows; why it could not tell."""
        reasons: list[str] = []
        scope, settings = Scope(Bank.NEGATIVE), self._settings.protected
        vectors = {
            modality: vector
            for modality, vector in content.vectors.items()
            if not self._is_negative(content, modality, vector, settings, scope, reasons)
        }
        signatures = self._signatures_left(content, settings, scope, reasons)
        return replace(content, vectors=vectors, signatures=signatures), [f"negative bank: {r}" for r in reasons]

    def _is_negative(
        self,
        content: Content,
        modality: str,
        vector: ContentVector,
        settings: UseSettings,
        scope: Scope,
        reasons: list[str],
    ) -> bool:
        threshold = settings.threshold(modality, vector.encoder.name)
        if threshold is None:
            return False
        for key in self._keys(scope, modality, frozenset({content.content_type})):
            try:
                if self._known(key, vector, threshold):
                    return True
            except WrongEncoder:
                continue
            except ParakhError as error:
                reasons.append(f"{key}: {error}")
        return False

    def _known(self, key: PartitionKey, vector: ContentVector, threshold: float) -> bool:
        (found,) = self._watched.search(
            key, vector.encoder, [vector.vector], self._candidates(Scope(Bank.NEGATIVE)), use="negative",
            threshold=threshold,
        )  # fmt: skip
        return any(_enabled(item) for item in self._watched.get(key, found.ids, use="negative").values())

    def _signatures_left(
        self, content: Content, settings: UseSettings, scope: Scope, reasons: list[str]
    ) -> FrameSignatures | None:
        bits = settings.threshold(IndexedModality.PDQ, PDQ_ENCODER.name)
        signatures = content.signatures
        if signatures is None or bits is None or not len(signatures.hashes):
            return signatures
        left = np.ones(len(signatures.hashes), bool)
        for key in self._keys(scope, IndexedModality.PDQ, _SEEN):
            try:
                found = self._watched.search(
                    key, PDQ_ENCODER, list(signatures.hashes), MAX_SIGNATURES, use="negative", threshold=bits
                )
                items = self._watched.get(key, sorted({id_ for one in found for id_ in one.ids}), use="negative")
                on = {id_ for id_, item in items.items() if _enabled(item)}
                left &= np.array([not on & set(one.ids) for one in found])
            except ParakhError as error:
                reasons.append(f"{key}: {error}")
        return FrameSignatures(signatures.hashes[left], signatures.quality[left], signatures.times_s[left])

    # --- inside ---

    def _keys(self, scope: Scope, modality: str, content_types: frozenset[str]) -> Sequence[PartitionKey]:
        return [
            key
            for key in self._watched.partitions.keys_of(scope.bank)
            if key.modality == modality
            and key.content_type in content_types | {ANY}
            and scope.language in (None, key.language)
        ]

    def _candidates(self, scope: Scope) -> int:
        """More than are told: some fail the checks, or are switched off."""
        return min(MAX_K, 3 * (scope.limit or self._settings.max_matches) + 10)


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


def _compared(content_type: str, modality: str, use: Use) -> bool:
    """Does this modality tell that the content is the same? A caption or a song is no video; for its owner it is."""
    if modality == IndexedModality.VISUAL:
        return content_type in _SEEN
    if modality == IndexedModality.AUDIO:
        return content_type == "audio" or (use is Use.PROTECTED and content_type == "video")
    return modality == IndexedModality.TEXT and content_type == "text"


def _match(
    content: Content,
    use: Use,
    key: PartitionKey,
    item: Item,
    stage: Stage,
    score: float | None,
    distance: float | None,
    threshold: float,
    segments: tuple[MatchedSegment, ...],
) -> Match:
    about: Mapping[str, object] = own(item)
    duration_s = about.get("duration_s")
    match = Match(
        use=use,
        id=content_id(item),
        partition=str(key),
        stage=stage,
        score=score,
        distance=distance,
        threshold=threshold,
        segments=segments,
        duration_s=float(duration_s) if isinstance(duration_s, int | float) else None,
        attributes=given_attributes(item),
    )
    if content.sha256 is not None and about.get("sha256") == content.sha256:
        return replace(match, stage=Stage.SHA256, score=None, distance=None, threshold=None)
    return match


def _order(match: Match) -> tuple[int, float, str]:
    """Surest first: by stage, then by how near."""
    near = match.distance if match.distance is not None else -(match.score or 0.0)
    return _RANK[match.stage], near, match.id


def _enabled(item: Item) -> bool:
    return item.attributes.get("enabled", True) is not False


def _moving(content_type: str, duration_s: float | None) -> float | None:
    return None if content_type == "image" else duration_s


def _since(scope: Scope) -> Filter | None:
    return None if scope.created_from is None else Filter(created_from=scope.created_from)
