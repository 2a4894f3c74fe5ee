"""Has a feed shown this, or the same under another id, within the last hours? A feed asks before it shows.

Each feed has partitions of its own in the bank `shown`, named by the feed in the language's place, whose items are
copies of what was shown with the time as `created_at`. They are forgotten after the retention, a feed that has nothing
left with its partitions, and start anew with a new encoder: what they hold is worth hours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from deployments.runtime.errors import InvalidInput, NotFound, PartitionConflict, WrongEncoder
from deployments.similarity.checks import MAX_K
from deployments.similarity.content import (
    ANY,
    Bank,
    Content,
    IndexedModality,
    Match,
    MatchAnswer,
    PartitionKey,
    Stage,
    Use,
)
from deployments.similarity.errors import IndexDamaged
from deployments.similarity.node_settings import SimilaritySettings
from deployments.similarity.partitions.catalog import State
from deployments.similarity.partitions.watched import WatchedPartitions
from deployments.similarity.uses.candidates import Scope
from deployments.similarity.uses.contents import Contents
from deployments.similarity.uses.entries import (
    Entry,
    entries_of,
    given_attributes,
    item_ids,
    own,
)
from deployments.similarity.uses.matching import Matching
from deployments.similarity.values import Filter, Item

logger = logging.getLogger(__name__)

_MODALITIES = {"audio": IndexedModality.AUDIO, "text": IndexedModality.TEXT}  # of a content type; else visual
_EXPIRY_ROUNDS = 50


class Shown:
    def __init__(
        self, watched: WatchedPartitions, contents: Contents, matching: Matching, settings: SimilaritySettings
    ) -> None:
        self._watched = watched
        self._contents = contents
        self._matching = matching
        self._settings = settings

    def mark(self, content: Content, feed: str, at: float) -> None:
        """The feed showed it at this time (Unix seconds).

        `content` may be no more than the id of an indexed post. Raises NotFound where it has nothing to compare and is
        not indexed, InvalidInput for a bad feed name or one feed too many.
        """
        whole = self._whole(content)
        entries = list(self._entries(whole, feed, at)) if whole is not None else []
        if not entries:
            raise NotFound(f"There is nothing in the index under the id {content.id!r}.", param="id")
        self._room_for(feed)
        for entry in entries:
            try:
                self._watched.upsert(entry.key, entry.encoder, entry.items, use="shown")
            except WrongEncoder:
                self._start_anew(entry)

    def was(self, content: Content, feed: str, since: float) -> MatchAnswer:
        """What of the feed since then is the same as this content; the attribute `shown_at` says when."""
        key = feed_key(feed, IndexedModality.VISUAL)
        scope = Scope(Bank.SHOWN, language=key.language, created_from=since)
        same = [match for match in (self._itself(content.id, feed, since),) if match is not None]
        whole = self._whole(content)
        if whole is None:
            return MatchAnswer(tuple(same))
        found, reasons = self._matching.within(whole, Use.DUPLICATE, scope)
        told = [replace(match, use=Use.SIMILAR) for match in found]
        return MatchAnswer((*same, *told), {str(Use.SIMILAR): "; ".join(reasons)} if reasons else {})

    def expire(self, before: float) -> int:
        """Forget what was shown before this time, and the feeds that showed nothing since; how many items."""
        forgotten = 0
        for key in self._watched.partitions.keys_of(Bank.SHOWN):
            try:
                forgotten += self._expire(key, before)
                self._watched.partitions.drop_empty(key)
            except (IndexDamaged, NotFound, WrongEncoder):
                logger.warning("similarity: nothing was expired in %s", key)
        return forgotten

    def _whole(self, content: Content) -> Content | None:
        return content if content.vectors or content.signatures else self._contents.stored(content.id)

    def _entries(self, content: Content, feed: str, at: float) -> Iterator[Entry]:
        modality = _MODALITIES.get(content.content_type, IndexedModality.VISUAL)
        for entry in entries_of(content, Bank.SHOWN, self._settings):
            if entry.key.modality in (modality, IndexedModality.PDQ):
                items = tuple(
                    replace(item, created_at=at, attributes={**item.attributes, "shown_at": at}) for item in entry.items
                )
                yield Entry(feed_key(feed, entry.key.modality), entry.encoder, items)

    def _room_for(self, feed: str) -> None:
        if feed in (feeds := self._feeds()) or len(feeds) < self._settings.max_feeds:
            return
        self.expire(time.time() - 3600 * self._settings.shown_retention_h)  # some may have had their time since
        if len(feeds := self._feeds()) >= self._settings.max_feeds:
            raise InvalidInput(f"There are {len(feeds)} feeds; no more are remembered.", param="feed")

    def _feeds(self) -> set[str]:
        return {key.language for key in self._watched.partitions.keys_of(Bank.SHOWN)}

    def _start_anew(self, entry: Entry) -> None:
        partitions = self._watched.partitions
        try:
            partitions.begin(entry.key, entry.encoder, len(entry.items[0].vector))
            partitions.switch(entry.key)
        except (PartitionConflict, NotFound):  # another thread is doing it, or gave the partition up
            logger.info("similarity: %s is starting anew already", entry.key)
        self._watched.upsert(entry.key, entry.encoder, entry.items, use="shown")
        for info in partitions.info(entry.key).generations:
            if info.generation.state is State.PREVIOUS:
                partitions.retire(entry.key, info.generation.number)

    def _itself(self, id: str, feed: str, since: float) -> Match | None:
        for key in self._watched.partitions.keys_of(Bank.SHOWN):
            if key.language != feed:
                continue
            try:
                items = self._watched.get(key, item_ids(id, key), use="shown")
            except (IndexDamaged, NotFound):
                continue
            for item in items.values():
                if item.created_at >= since:
                    duration_s = own(item).get("duration_s")
                    return Match(
                        Use.SIMILAR,
                        id,
                        str(key),
                        Stage.SHA256,
                        None,
                        None,
                        None,
                        duration_s=duration_s,
                        attributes=given_attributes(item),
                    )
        return None

    def _expire(self, key: PartitionKey, before: float) -> int:
        """An index is not ordered by time: the nearest to anything at all, of those before it, are all of them."""
        forgotten = 0
        for _ in range(_EXPIRY_ROUNDS):
            anything = self._anything(key)
            if anything is None:
                break
            (old,) = self._watched.partitions.search(
                key,
                self._watched.partitions.encoder(key),
                [anything.vector],
                MAX_K,
                filter=Filter(created_until=before),
                exact=True,
            )
            if not old.ids:
                break
            forgotten += self._watched.delete(key, old.ids, use="shown")
        return forgotten

    def _anything(self, key: PartitionKey) -> Item | None:
        partitions = self._watched.partitions
        return next(iter(partitions.get(key, partitions.scan(key, limit=1)).values()), None)


def feed_key(feed: str, modality: str) -> PartitionKey:
    """Raises InvalidInput for a name that no partition could have."""
    try:
        return PartitionKey.parse(f"{Bank.SHOWN}.{feed}.{ANY}.{modality}")
    except InvalidInput:
        raise InvalidInput(
            "A feed is named by up to 32 lower-case letters, digits and hyphens, a letter first.", param="feed"
        ) from None
