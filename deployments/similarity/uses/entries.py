"""Content as items of partitions, and back.

A vector's item has the content's id; frame signature n of it has `id#n`, in signature partitions alone, so the two
never meet, and an id with a `#` of its own stays itself: the last `#` counts. What the index itself must know of the
content stands in the item's attributes under one reserved name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import ContentType
from deployments.similarity.checks import check_id
from deployments.similarity.content import (
    ANY,
    PDQ_ENCODER,
    Bank,
    Content,
    ContentVector,
    EncoderId,
    FrameSignatures,
    IndexedModality,
    PartitionKey,
)
from deployments.similarity.node_settings import MAX_SIGNATURES, SimilaritySettings, primary_subtag
from deployments.similarity.uses.signatures import spread
from deployments.similarity.values import FrameVectors, Item

OWN = "_"
"""Attribute that is the index's own: duration_s, sha256, revision; of a signature n, of, t (seconds), q (quality)."""

VECTOR_MODALITIES = (IndexedModality.VISUAL, IndexedModality.JOINT, IndexedModality.AUDIO, IndexedModality.TEXT)
_CONTENT_TYPES = frozenset({*ContentType, ANY})


@dataclass(frozen=True)
class Entry:
    """What one content puts into one partition."""

    key: PartitionKey
    encoder: EncoderId
    items: tuple[Item, ...]


def entries_of(content: Content, bank: str, settings: SimilaritySettings) -> list[Entry]:
    """Raises InvalidInput where the content cannot be indexed, whatever its vectors."""
    check_content(content)
    entries = [
        Entry(key_of(content, bank, modality, settings), vector.encoder, (_vector_item(content, vector, settings),))
        for modality, vector in content.vectors.items()
    ]
    items = _signature_items(content, settings)
    if items:
        entries.append(Entry(key_of(content, bank, IndexedModality.PDQ, settings), PDQ_ENCODER, items))
    return entries


def key_of(content: Content, bank: str, modality: str, settings: SimilaritySettings) -> PartitionKey:
    """Posts are kept by language; references and lists, which are few and searched for every language, are not."""
    if bank not in tuple(Bank):
        raise InvalidInput(f"There is no bank {bank}.", param="bank")
    language = settings.partition_language(content.language) if bank == Bank.POSTS else ANY
    return PartitionKey(str(bank), language, str(content.content_type), str(modality))


def check_content(content: Content) -> None:
    """Raises InvalidInput."""
    check_id(f"{content.id}#{MAX_SIGNATURES}")
    check_id(content.id)
    if content.content_type not in _CONTENT_TYPES:
        raise InvalidInput(f"There is no content type {content.content_type}.", param="content_type")
    if OWN in content.attributes:
        raise InvalidInput(f"The attribute {OWN} is reserved.", param="attributes")
    unknown = set(content.vectors) - set(VECTOR_MODALITIES)
    if unknown:
        raise InvalidInput(f"There is no modality {min(unknown)}.", param="modality")


def item_ids(content_id: str, key: PartitionKey) -> list[str]:
    """Every id that items of this content may have in the partition, but for those put there by hand."""
    if key.modality != IndexedModality.PDQ:
        return [content_id]
    return [signature_id(content_id, n) for n in range(MAX_SIGNATURES)]


def signature_id(content_id: str, n: int) -> str:
    return f"{content_id}#{n}"


def content_id(item: Item) -> str:
    """Of an item of any partition; one that was put there by hand is its own content."""
    return item.id.rpartition("#")[0] if "n" in own(item) else item.id


def candidate_id(item_id: str, key: PartitionKey) -> str:
    """The content that an item belongs to, told from its id alone."""
    head, mark, number = item_id.rpartition("#")
    return head if key.modality == IndexedModality.PDQ and mark and head and number.isdecimal() else item_id


def check_own_content(item_id: str, key: PartitionKey) -> None:
    """An item put there by hand is its own content, by its id alone: `abc#5` would go for a signature of `abc`, be
    removed with it, and be missed by itself. Raises InvalidInput.
    """
    if candidate_id(item_id, key) != item_id:
        raise InvalidInput(
            f"In {key} an id that ends in `#` and a number is a frame's signature: give it another.", param="id"
        )


def own(item: Item) -> Mapping[str, Any]:
    value = item.attributes.get(OWN)
    return value if isinstance(value, Mapping) else {}


def given_attributes(item: Item) -> dict[str, Any]:
    """As the content had them."""
    return {name: value for name, value in item.attributes.items() if name != OWN}


def signatures_of(items: Sequence[Item]) -> FrameSignatures:
    """Of one content's items of a signature partition; one put there by hand is a still of full quality."""
    ordered = sorted(items, key=lambda item: float(own(item).get("t", 0.0)))
    return FrameSignatures(
        np.stack([np.asarray(item.vector, np.uint8) for item in ordered]),
        np.array([own(item).get("q", 100) for item in ordered], np.uint8),
        np.array([own(item).get("t", 0.0) for item in ordered], np.float32),
    )


def content_of(found: Mapping[PartitionKey, tuple[EncoderId, Sequence[Item]]]) -> Content | None:
    """What is indexed of one content, from its items by partition; None where there is nothing."""
    vectors = {
        key.modality: ContentVector(encoder, items[0].vector, items[0].frames)
        for key, (encoder, items) in found.items()
        if items and key.modality != IndexedModality.PDQ
    }
    signatures = [items for key, (_, items) in found.items() if items and key.modality == IndexedModality.PDQ]
    first = next((items[0] for _, items in found.values() if items), None)
    if first is None:
        return None
    about = own(first)
    return Content(
        id=content_id(first),
        content_type=first.content_type,
        language=first.language or ANY,
        created_at=first.created_at,
        duration_s=about.get("duration_s"),
        sha256=about.get("sha256"),
        vectors=vectors,
        signatures=signatures_of(signatures[0]) if signatures else None,
        attributes=given_attributes(first),
    )


def revision_of(content: Content) -> int | None:
    """The client's revision, where the content's attributes carry one."""
    revision = content.attributes.get("revision")
    return revision if isinstance(revision, int) and not isinstance(revision, bool) else None


def _vector_item(content: Content, vector: ContentVector, settings: SimilaritySettings) -> Item:
    frames = None if vector.frames is None else _thinned(vector.frames, settings.frames_per_post)
    return replace(_item(content, {}), vector=vector.vector, frames=frames)


def _signature_items(content: Content, settings: SimilaritySettings) -> tuple[Item, ...]:
    if content.signatures is None:
        return ()
    kept = spread(content.signatures, settings.signatures_per_post, settings.pdq_quality)
    rows = zip(kept.hashes, kept.quality, kept.times_s, strict=True)
    return tuple(
        replace(
            _item(content, {"n": n, "of": len(kept.hashes), "t": round(float(time_s), 3), "q": int(quality)}),
            id=signature_id(content.id, n),
            vector=row,
        )
        for n, (row, quality, time_s) in enumerate(rows)
    )


def _item(content: Content, more: Mapping[str, Any]) -> Item:
    about = {"duration_s": content.duration_s, "sha256": content.sha256, "revision": revision_of(content)}
    known = {name: value for name, value in about.items() if value is not None}
    return Item(
        id=content.id,
        vector=np.empty(0, np.float32),
        created_at=content.created_at,
        language=primary_subtag(content.language),
        content_type=str(content.content_type),
        attributes={**content.attributes, OWN: {**known, **more}},
    )


def _thinned(frames: FrameVectors, count: int) -> FrameVectors | None:
    """At most `count`, evenly spaced."""
    if not count or not len(frames.vectors):
        return None
    which = np.unique(np.linspace(0, len(frames.vectors) - 1, min(count, len(frames.vectors))).round().astype(np.intp))
    return FrameVectors(frames.vectors[which], frames.times_s[which])
