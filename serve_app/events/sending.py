"""A page of outbox events to the broker, each with what became of it; nothing is marked here.

event       -> CloudEvent                          -> sent
dead letter -> its message as it came              -> sent
            -> too large for the broker, or gone   -> the event that refers to it -> sent
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from deployments.runtime.errors import NodeUnavailable, ParakhError
from serve_app.events.brokers.base import MessageTooLarge, OutRecord, Producer
from serve_app.events.outgoing import original, record
from serve_app.events.settings import TopicNames
from serve_app.media_store import MediaMissing
from serve_app.records.values import DeadLetter, OutboxEvent

log = logging.getLogger(__name__)
MAX_ORIGINAL_BYTES = 8 * 2**20  # of a value in the media store; a larger one is referred to at once
Sent = tuple[OutboxEvent, ParakhError | None]


class NotAnEvent(ParakhError):
    """A row that cannot be written as an event: an error of this program."""

    code = "not_an_event"
    message = "The outbox row cannot be written as an event."


class StoredValues(Protocol):
    """Values of dead letters that are too large for the database: the media store."""

    async def get(self, sha256: str) -> bytes: ...


class Sender:
    """`producer` None: there is no broker, and everything counts as sent. `values` None: stored values are only
    referred to."""

    def __init__(self, producer: Producer | None, topics: TopicNames, values: StoredValues | None = None) -> None:
        self._producer = producer
        self._topics = topics
        self._values = values
        self._started = False

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.close()

    async def send(self, events: Sequence[OutboxEvent]) -> list[Sent]:
        """In the order given; one error of its own for each. Raises BrokerUnavailable where nothing was sent."""
        if self._producer is None:
            return [(event, None) for event in events]
        if not self._started:
            await self._producer.start()
            self._started = True
        ready, sent = self._encoded([event for event in events if not _stored(event)])
        results = await self._producer.publish([encoded for _, encoded in ready])
        for (event, _), result in zip(ready, results, strict=True):
            sent.append((event, await self._or_reference(event, result)))
        for event in filter(_stored, events):  # one at a time: a page of them need not fit into memory
            sent.append((event, await self._stored_letter(event)))
        return sent

    def _encoded(self, events: Sequence[OutboxEvent]) -> tuple[list[tuple[OutboxEvent, OutRecord]], list[Sent]]:
        ready: list[tuple[OutboxEvent, OutRecord]] = []
        refused: list[Sent] = []
        for event in events:
            try:
                ready.append((event, self._record(event)))
            except Exception:  # one row must not stop the rest
                log.exception("the outgoing event %s cannot be encoded", event.event_id)
                refused.append((event, NotAnEvent()))
        return ready, refused

    def _record(self, event: OutboxEvent) -> OutRecord:
        letter = event.dead_letter
        if letter is not None and letter.value is not None:
            return original(event, letter, letter.value, self._topics)
        return record(event, self._topics)

    async def _stored_letter(self, event: OutboxEvent) -> ParakhError | None:
        letter = event.dead_letter
        assert letter is not None
        try:
            value = await self._value(letter)
        except NodeUnavailable as error:
            return error
        if value is None:
            return await self._one(record(event, self._topics))
        return await self._or_reference(event, await self._one(original(event, letter, value, self._topics)))

    async def _value(self, letter: DeadLetter) -> bytes | None:
        if self._values is None or letter.value_sha256 is None or letter.size > MAX_ORIGINAL_BYTES:
            return None
        try:
            return await self._values.get(letter.value_sha256)
        except MediaMissing:
            return None

    async def _or_reference(self, event: OutboxEvent, result: ParakhError | None) -> ParakhError | None:
        if event.dead_letter is None or not isinstance(result, MessageTooLarge):
            return result
        return await self._one(record(event, self._topics))

    async def _one(self, one: OutRecord) -> ParakhError | None:
        assert self._producer is not None
        return (await self._producer.publish([one]))[0]


def _stored(event: OutboxEvent) -> bool:
    return event.dead_letter is not None and event.dead_letter.value is None
