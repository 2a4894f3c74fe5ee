"""The messages in work, in the order in which they came, and which of them may be stored next."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from serve_app.events.handling import Work
from serve_app.events.incoming import ClipRecorded, Incoming, PostCreated, PostViewed, Refused
from serve_app.events.message import Message
from serve_app.records.values import Conclusion, EventId, JudgedClip, JudgedPost, Refusal, Subject, subject_of

Kind = Literal["post", "clip", "views", "refusal"]


@dataclass(eq=False)
class Item:
    """One message on its way. `work` None while it is being worked off; `known`: stored before.

    What was read from the message, media and all, is not kept here: only whoever works it off needs it.
    """

    message: Message
    event: EventId | None
    of: Kind
    key: tuple[str, str] | None
    subject: Subject | None  # whom it is about, where that could be read
    created_at: datetime | None
    known: bool = False
    work: Work | None = None
    task: asyncio.Task[None] | None = None
    writing: bool = False

    @property
    def finished(self) -> bool:
        return self.known or self.work is not None

    @property
    def kind(self) -> Kind:
        """What became of it."""
        return "refusal" if isinstance(self.work, Refusal) else self.of

    @property
    def age_s(self) -> float | None:
        """At its verdict, from its creation."""
        match self.work:
            case JudgedPost():
                return self.work.verdict.age_s
            case JudgedClip():
                return self.work.result.age_s
            case _:
                return None

    def conclusion(self) -> Conclusion:
        assert self.work is not None
        return Conclusion(self.message, self.event, self.work, self.subject)


def item_of(message: Message, event: Incoming, *, known: bool) -> Item:
    return Item(message, event.event, _kind(event), _key(event), _subject(event), _created_at(event), known=known)


class Window:
    def __init__(self) -> None:
        self._items: dict[Item, None] = {}
        self.bytes = 0  # of the messages

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def add(self, item: Item) -> None:
        self._items[item] = None
        self.bytes += len(item.message.value)

    def remove(self, item: Item) -> None:
        if item in self._items:
            del self._items[item]
            self.bytes -= len(item.message.value)

    def storable(self, limit: int) -> list[Item]:
        """Finished ones, in order; none that an earlier one of its key must precede."""
        batch: list[Item] = []
        blocked: set[tuple[str, str]] = set()
        for item in self._items:
            if not item.finished:
                if item.key is not None:
                    blocked.add(item.key)
            elif not item.writing and item.key not in blocked:
                batch.append(item)
                if len(batch) == limit:
                    break
        return batch

    def oldest_s(self) -> float | None:
        """Age of the oldest post or clip."""
        now = datetime.now(UTC)
        ages = [(now - item.created_at).total_seconds() for item in self._items if item.created_at]
        return max(ages, default=None)


def _kind(event: Incoming) -> Kind:
    match event:
        case PostCreated():
            return "post"
        case ClipRecorded():
            return "clip"
        case PostViewed():
            return "views"
        case _:
            return "refusal"


def _key(event: Incoming) -> tuple[str, str] | None:
    match event:
        case PostCreated():
            return "post", event.post.post_id
        case ClipRecorded():
            return "stream", event.clip.stream_id
        case PostViewed():
            return "views", event.count.post_id
        case _:
            return None


def _subject(event: Incoming) -> Subject | None:
    match event:
        case PostCreated():
            return subject_of("post", event.post.post_id)
        case ClipRecorded():
            return subject_of("stream", event.clip.stream_id)
        case PostViewed():
            return subject_of("post", event.count.post_id)
        case Refused():
            return event.subject


def _created_at(event: Incoming) -> datetime | None:
    match event:
        case PostCreated():
            return event.post.created_at
        case ClipRecorded():
            return event.clip.created_at
        case _:
            return None
