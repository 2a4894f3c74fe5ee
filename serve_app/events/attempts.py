"""How often it is tried: to work an event off, and to store what came of it.

What is down is waited for, as long as it takes. What a message brings about itself is tried `max_attempts` times and
then a refusal, so that nothing stands still for one message. A deadline that passes is the message's own doing only
where others of its kind were worked off meanwhile: a graph that hangs must not cost good messages their attempts.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from deployments.runtime.errors import (
    DeadlineExceeded,
    FetchFailed,
    LanguageModelUnavailable,
    ModelError,
    NodeUnavailable,
    Overloaded,
    ParakhError,
)
from serve_app.events.consumer_settings import ConsumerSettings
from serve_app.events.handling import Work
from serve_app.events.incoming import Incoming
from serve_app.events.message import Message
from serve_app.events.observer import ConsumerObserver
from serve_app.records.values import Concluded, Conclusion, EventId, Refusal

log = logging.getLogger(__name__)
_INFRASTRUCTURE = (NodeUnavailable, Overloaded, ModelError)  # no fault of the message: it waits as long as it takes
_MAY_PASS = (FetchFailed, DeadlineExceeded, LanguageModelUnavailable)


class Handler(Protocol):
    async def work(self, event: Incoming, deadline_s: float) -> Work: ...


class Store(Protocol):
    async def known(self, events: Sequence[EventId]) -> set[EventId]: ...

    async def conclude(self, conclusions: Sequence[Conclusion]) -> list[Concluded]: ...


class Attempts:
    def __init__(self, handler: Handler, store: Store, settings: ConsumerSettings, observer: ConsumerObserver) -> None:
        self._handler = handler
        self._store = store
        self._settings = settings
        self._observer = observer
        self._worked_off: Counter[type[Incoming]] = Counter()  # by kind, since the start

    async def work(self, message: Message, event: Incoming) -> Work:
        """What is stored of the event; a Refusal where nothing else ever will be."""
        waits = failures = 0
        while True:
            others = self._worked_off[type(event)]
            try:
                work = await self._handler.work(event, self._settings.attempt_s)
                self._worked_off[type(event)] += 1
                return work
            except _INFRASTRUCTURE as error:  # costs the message none of its attempts
                waits += 1
                await self._pause(waits, error)
            except ParakhError as error:
                if isinstance(error, DeadlineExceeded) and self._worked_off[type(event)] == others:
                    waits += 1
                    await self._pause(waits, error)
                    continue
                failures += 1
                if failures >= self._settings.max_attempts or not _may_pass(error):
                    return Refusal(error.code, str(error))
                await self._pause(failures, error)
            except Exception:  # the edge of a message: one that breaks the code must not end the consumer
                log.exception("%s/%d@%d failed", *message.place)
                failures += 1
                if failures >= self._settings.max_attempts:
                    return Refusal(ParakhError.code, "Every attempt at the event failed inside the server.")
                await self._pause(failures, ParakhError())

    async def known(self, events: Sequence[EventId]) -> set[EventId]:
        """Without an answer none is known: storing finds out as well."""
        try:
            return await self._store.known(events) if events else set()
        except NodeUnavailable:
            return set()

    async def conclude(self, conclusions: Sequence[Conclusion]) -> list[Concluded]:
        """In one transaction; where that breaks the code, each alone, and the culprit becomes a dead letter."""
        try:
            return await self._stored_when_possible(conclusions)
        except Exception:  # the edge of a batch: one message that breaks the code must not stop the consumer
            log.exception("%d outcomes cannot be stored together", len(conclusions))
        outcomes: list[Concluded] = []
        for conclusion in conclusions:
            try:
                outcomes += await self._stored_when_possible([conclusion])
            except Exception:
                log.exception("%s/%d@%d cannot be stored", *conclusion.message.place)
                refusal = Refusal(ParakhError.code, "Its outcome could not be stored: the server failed inside.")
                outcomes += await self._stored_when_possible([replace(conclusion, work=refusal)])
        return outcomes

    async def _stored_when_possible(self, conclusions: Sequence[Conclusion]) -> list[Concluded]:
        """Tried until the database takes it: meanwhile the window fills up and nothing more is taken."""
        pause_s = self._settings.retry_base_s
        while True:
            try:
                return await self._store.conclude(conclusions)
            except NodeUnavailable as error:
                self._observer.retried(error.code)
            await asyncio.sleep(jittered(pause_s))
            pause_s = min(2 * pause_s, self._settings.retry_max_s)

    async def _pause(self, attempt: int, error: ParakhError) -> None:
        self._observer.retried(error.code)
        pause_s = min(self._settings.retry_max_s, self._settings.retry_base_s * 2 ** min(attempt - 1, 16))
        asked_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
        await asyncio.sleep(max(asked_s, jittered(pause_s)))


def _may_pass(error: ParakhError) -> bool:
    return isinstance(error, _MAY_PASS) or type(error) is ParakhError


def jittered(pause_s: float) -> float:
    return pause_s * random.uniform(0.5, 1.0)  # noqa: S311
