"""Content into the index, out of it, and what is there of it: every modality in its own partition.

Writing is idempotent. Content of one id is written by one thread at a time; what a newer revision no longer has, or
has in another partition (another language, another content type), goes after the new is there.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from deployments.runtime.errors import NotFound, ParakhError
from deployments.similarity.content import Bank, Content, EncoderId, IndexedModality, PartitionKey
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.watched import WatchedPartitions
from deployments.similarity.uses.entries import (
    Entry,
    candidate_id,
    content_of,
    entries_of,
    item_ids,
    own,
    revision_of,
    signature_id,
)
from deployments.similarity.values import Item

logger = logging.getLogger(__name__)

_STRIPES = 256


class Contents:
    def __init__(self, watched: WatchedPartitions, settings: SimilaritySettings) -> None:
        self._watched = watched
        self._partitions = watched.partitions
        self._settings = settings
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]

    def index(self, contents: Sequence[Content], bank: str = Bank.POSTS) -> None:
        """Everything of each, in place of what was there under its id; a revision older than what is there is ignored.

        Raises InvalidInput before anything is written where one is malformed. WrongEncoder or IndexDamaged where a
        partition refused its part, after the others took theirs: to be repeated.
        """
        last = {content.id: content for content in contents}
        for content in last.values():
            entries_of(content, bank, self._settings)
        with self._alone(last):
            fresh = [content for content in last.values() if not self._stale(content, bank)]
            refused = self._write([entry for content in fresh for entry in entries_of(content, bank, self._settings)])
            refused += self._remove_leftovers(fresh, bank)
        _raise_first(refused)

    def copy(self, source_id: str, content: Content, bank: str = Bank.POSTS) -> bool:
        """Index `content` with the vectors and signatures of `source_id`; False where there are none."""
        source = self.stored(source_id, bank)
        if source is None:
            return False
        duration_s = content.duration_s if content.duration_s is not None else source.duration_s
        whole = replace(content, vectors=source.vectors, signatures=source.signatures, duration_s=duration_s)
        self.index([whole], bank)
        return True

    def remove(self, id: str, bank: str = Bank.POSTS) -> bool:
        """Whether it was there. Raises IndexDamaged where a partition could not say, after the others did."""
        removed, refused = 0, list[ParakhError]()
        with self._alone([id]):
            for key in self._partitions.keys_of(bank):
                try:
                    removed += self._watched.delete(key, item_ids(id, key))
                except NotFound:  # a feed's partition that was given up meanwhile
                    continue
                except ParakhError as error:
                    refused.append(error)
        _raise_first(refused)
        return removed > 0

    def stored(self, id: str, bank: str = Bank.POSTS) -> Content | None:
        """What the index holds of it: stored vectors (normalised), kept frames, indexed signatures."""
        return content_of(dict(self._found(id, bank)))

    def has(self, id: str, bank: str = Bank.POSTS) -> bool:
        """Whether anything is there under this id, by hand or not. IndexDamaged where a partition cannot tell."""
        return any(self._held(key, id) for key in self._partitions.keys_of(bank))

    def _held(self, key: PartitionKey, id: str) -> bool:
        try:
            return bool(self._partitions.get(key, [id, *item_ids(id, key)]))
        except NotFound:  # given up meanwhile
            return False

    def ids(self, bank: str, after: str = "", limit: int = 1000) -> list[str]:
        """Ids of indexed content greater than `after`, in the order of their UTF-8 bytes.

        Raises IndexDamaged where a partition cannot tell: a part would pass for the whole.
        """
        found: set[str] = set()
        for key in self._partitions.keys_of(bank):
            found.update(
                self._signature_owners(key, after, limit)
                if key.modality == IndexedModality.PDQ
                else self._partitions.scan(key, after, limit)
            )
        return sorted(found, key=str.encode)[:limit]

    def _signature_owners(self, key: PartitionKey, after: str, limit: int) -> set[str]:
        """At least the first `limit` of those greater than `after`.

        `a#0` comes after `a!#0`, so a scan may end before it meets the owner `a` of a met `a!`: ids that are a
        beginning of another, up to a character no greater than `#`, are asked for one by one.
        """
        owners: set[str] = set()
        position = after
        while len(owners) < limit and (ids := self._partitions.scan(key, position)):
            owners.update(owner for id_ in ids if (owner := candidate_id(id_, key)).encode() > after.encode())
            position = ids[-1]
        beginnings = {
            beginning
            for owner in owners
            for end in range(1, len(owner))
            if owner[end] <= "#" and (beginning := owner[:end]).encode() > after.encode()
        }
        asked = [signature_id(beginning, 0) for beginning in beginnings]
        return owners | {candidate_id(id_, key) for id_ in self._partitions.get(key, asked)}

    def _write(self, entries: Iterable[Entry]) -> list[ParakhError]:
        groups: dict[tuple[PartitionKey, EncoderId], list[Item]] = defaultdict(list)
        for entry in entries:
            groups[entry.key, entry.encoder] += entry.items
        refused: list[ParakhError] = []
        for (key, encoder), items in groups.items():
            try:
                self._watched.upsert(key, encoder, items)
            except ParakhError as error:
                refused.append(error)
        return refused

    def _remove_leftovers(self, contents: Sequence[Content], bank: str) -> list[ParakhError]:
        kept = {
            (entry.key, item.id)
            for content in contents
            for entry in entries_of(content, bank, self._settings)
            for item in entry.items
        }
        refused: list[ParakhError] = []
        for key in self._partitions.keys_of(bank):
            leftovers = [id_ for content in contents for id_ in item_ids(content.id, key) if (key, id_) not in kept]
            try:
                self._watched.delete(key, leftovers)
            except IndexDamaged:  # where it is damaged it finds nothing either, and is restored from before
                logger.warning("similarity: %s is damaged; leftovers in it were not looked for", key)
            except ParakhError as error:
                refused.append(error)
        return refused

    def _stale(self, content: Content, bank: str) -> bool:
        revision = revision_of(content)
        if revision is None:
            return False
        there = [own(item).get("revision") for _, (_, items) in self._found(content.id, bank) for item in items]
        return any(isinstance(other, int) and other > revision for other in there)

    def _found(self, id: str, bank: str) -> Iterator[tuple[PartitionKey, tuple[EncoderId, list[Item]]]]:
        for key in self._partitions.keys_of(bank):
            try:
                items = list(self._watched.get(key, item_ids(id, key)).values())
                if items:
                    yield key, (self._partitions.encoder(key), items)
            except (IndexDamaged, NotFound):
                continue

    @contextmanager
    def _alone(self, ids: Iterable[str]) -> Iterator[None]:
        with ExitStack() as stack:
            for stripe in sorted({hash(id_) % _STRIPES for id_ in ids}):
                stack.enter_context(self._stripes[stripe])
            yield


def _raise_first(errors: Sequence[ParakhError]) -> None:
    if errors:
        raise errors[0]
