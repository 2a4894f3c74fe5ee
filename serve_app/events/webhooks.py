"""Deliveries of webhooks: one line for each endpoint, so that a slow one is slow for itself alone.

    due -> up to `concurrency` posts at once -> delivered | failed, tried again by the schedule | given up
                                             -> 429, 503: the whole endpoint rests as long as it asks to
                                             -> 410: it wants nothing more and is left alone until the next start

What is not written down when the process dies is posted again under the same webhook-id. Order is not promised:
a receiver that needs one has the event's time and subject.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from deployments.runtime.errors import NodeUnavailable
from serve_app.events.duty import Duty
from serve_app.events.outgoing import cloud_event
from serve_app.events.publisher import backoff_s
from serve_app.events.webhook_client import Answer, SecretUnusable, WebhookClient
from serve_app.events.webhook_settings import WebhookEndpoint, WebhookSettings
from serve_app.records.values import WebhookDelivery

log = logging.getLogger(__name__)
HOUR_S = 3600.0
SCHEDULE_S = (0.0, 5.0, 300.0, 1800.0, *(hours * HOUR_S for hours in (2, 5, 10, 14, 20, 24)))
"""Pause before each attempt (Standard Webhooks 1.0, "deliverability and reliability")."""

ABANDONED_AFTER = timedelta(days=4)  # more than the whole schedule: nobody posts these any more
PAGE = 64
POLL_S = 1.0
MAX_REST_S = HOUR_S
NO_SECRET_REST_S = 15.0


class Store(Protocol):
    """The part of the WebhookStore that this needs."""

    async def due(self, limit: int, endpoints: Sequence[str] | None = None) -> list[WebhookDelivery]: ...

    async def delivered(self, event_id: str, endpoint: str, status: int) -> None: ...

    async def failed(
        self, event_id: str, endpoint: str, status: int | None, error: str, next_attempt_at: datetime | None
    ) -> None: ...


class WebhookObserver(Protocol):
    """Counts by the endpoint's name; never with an event's id."""

    def delivered(self, endpoint: str) -> None: ...

    def failed(self, endpoint: str, status: int | None) -> None:
        """One attempt; it is tried again."""
        ...

    def gave_up(self, endpoint: str) -> None: ...


class Unobserved:
    def delivered(self, endpoint: str) -> None: ...

    def failed(self, endpoint: str, status: int | None) -> None: ...

    def gave_up(self, endpoint: str) -> None: ...


class Webhooks:
    """Also tells the publisher who wants which type."""

    def __init__(
        self,
        store: Store,
        settings: WebhookSettings,
        duty: Duty,
        *,
        observer: WebhookObserver | None = None,
        client: Callable[[WebhookEndpoint, WebhookSettings], WebhookClient] | None = None,
        poll_s: float = POLL_S,
        schedule_s: Sequence[float] = SCHEDULE_S,
    ) -> None:
        make = client or _client
        self._store = store
        self._duty = duty
        self._stop = asyncio.Event()
        self._lines = {
            endpoint.name: _Line(
                store,
                endpoint,
                make(endpoint, settings),
                duty,
                self._stop,
                observer or Unobserved(),
                concurrency=settings.concurrency,
                poll_s=poll_s,
                schedule_s=schedule_s,
            )
            for endpoint in settings.endpoints
        }
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def disabled(self) -> list[str]:
        """Endpoints that answered 410: for health and for the log's reader."""
        return sorted(name for name, line in self._lines.items() if line.disabled)

    def endpoints_of(self, type_: str) -> list[str]:
        return [name for name, line in self._lines.items() if not line.disabled and line.endpoint.wants(type_)]

    def wake(self) -> None:
        for line in self._lines.values():
            line.wake.set()

    def start(self) -> None:
        """An endpoint whose secrets cannot be read waits and says so: it must not keep the process from its work."""
        if self._lines:
            self._tasks = [asyncio.create_task(work) for work in (self._duty.keep(), self._sweep())]
            self._tasks += [asyncio.create_task(line.run(), name=f"webhook-{n}") for n, line in self._lines.items()]

    async def stop(self, drain_s: float = 10.0) -> None:
        """No new posts; those that run have `drain_s` to end."""
        self._stop.set()
        self.wake()
        beside, lines = self._tasks[:2], self._tasks[2:]
        for task in beside:
            task.cancel()
        if lines:
            await asyncio.wait(lines, timeout=drain_s)
        for task in lines:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in self._lines.values():
            await line.client.close()
        await self._duty.give_up()

    async def _sweep(self) -> None:
        """Deliveries to endpoints that are no longer in the settings, or want nothing, end here after days."""
        while True:
            with contextlib.suppress(NodeUnavailable):
                if self._duty.held:
                    await self.abandon()
            await asyncio.sleep(HOUR_S)

    async def abandon(self) -> None:
        old = datetime.now(UTC) - ABANDONED_AFTER
        for delivery in await self._store.due(1000):
            line = self._lines.get(delivery.endpoint)
            if delivery.created_at < old and (line is None or line.disabled):
                reason = "The endpoint is no longer served."
                await self._store.failed(delivery.event_id, delivery.endpoint, None, reason, None)


class _Line:
    """Everything about one endpoint."""

    def __init__(
        self,
        store: Store,
        endpoint: WebhookEndpoint,
        client: WebhookClient,
        duty: Duty,
        stop: asyncio.Event,
        observer: WebhookObserver,
        *,
        concurrency: int,
        poll_s: float,
        schedule_s: Sequence[float],
    ) -> None:
        self.endpoint = endpoint
        self.client = client
        self.wake = asyncio.Event()
        self.disabled = False
        self._store = store
        self._duty = duty
        self._stop = stop
        self._observer = observer
        self._concurrency = concurrency
        self._poll_s = poll_s
        self._schedule_s = schedule_s
        self._rests_until = 0.0
        self._running: dict[str, asyncio.Task[None]] = {}  # event id -> its post

    async def run(self) -> None:
        failures = 0
        try:
            while not (self._stop.is_set() or self.disabled):
                try:
                    await self._turn()
                    failures = 0
                except NodeUnavailable as error:
                    failures += 1
                    log.warning("webhooks to %s wait: %s", self.endpoint.name, error)
                except Exception:  # the process's edge
                    failures += 1
                    log.exception("webhooks to %s wait", self.endpoint.name)
                if failures:
                    await self._pause(self._stop, backoff_s(failures))
            await asyncio.gather(*self._running.values(), return_exceptions=True)
        finally:
            for task in self._running.values():
                task.cancel()

    async def _turn(self) -> None:
        """Posts a page; returns when its last one has begun and one has ended, or after a pause. Raises what the
        records raised."""
        self.wake.clear()
        resting_s = self._rests_until - time.monotonic()
        if resting_s > 0 or not await self._duty.hold():
            await self._pause(self._stop, min(resting_s, 1.0) if resting_s > 0 else self._poll_s)
            return
        try:
            self.client.check()
        except SecretUnusable as error:  # no attempt is spent on it
            log.error("webhooks to %s wait: %s", self.endpoint.name, error)
            self._rests_until = time.monotonic() + NO_SECRET_REST_S
            return
        page = await self._store.due(PAGE, [self.endpoint.name])
        waiting = deque(delivery for delivery in page if delivery.event_id not in self._running)
        if not waiting and not self._running:
            await self._pause(self.wake, self._poll_s)
        while self._goes_on(waiting):
            if len(self._running) < self._concurrency:
                delivery = waiting.popleft()
                self._running[delivery.event_id] = asyncio.create_task(self._deliver(delivery))
            else:
                await self._ended()
        await self._ended()

    def _goes_on(self, waiting: deque[WebhookDelivery]) -> bool:
        resting = self._rests_until > time.monotonic()
        return bool(waiting) and not (self._stop.is_set() or self.disabled or resting) and self._duty.held

    async def _ended(self) -> None:
        """Waits until a post has ended, but not for ever: others may be due by then."""
        if self._running:
            done, _ = await asyncio.wait(
                self._running.values(), timeout=self._poll_s, return_when=asyncio.FIRST_COMPLETED
            )
            self._running = {id_: task for id_, task in self._running.items() if task not in done}
            errors = [error for task in done if (error := task.exception()) is not None]
            if errors:
                raise errors[0]

    async def _deliver(self, delivery: WebhookDelivery) -> None:
        name = self.endpoint.name
        answer = await self.client.post(delivery.event_id, cloud_event(delivery))
        if answer.error is None:
            await self._store.delivered(delivery.event_id, name, answer.status or 0)
            self._observer.delivered(name)
            return
        if answer.gone:
            self.disabled = True
            log.error("the webhook endpoint %s answered 410 Gone: nothing more is posted until the next start", name)
        if answer.retry_after_s:
            self._rests_until = time.monotonic() + min(answer.retry_after_s, MAX_REST_S)
        again_at = self._again_at(delivery, answer)
        await self._store.failed(delivery.event_id, name, answer.status, answer.error, again_at)
        if again_at is None:
            log.error("the event %s was given up for the webhook %s: %s", delivery.event_id, name, answer.error)
            self._observer.gave_up(name)
        else:
            self._observer.failed(name, answer.status)

    def _again_at(self, delivery: WebhookDelivery, answer: Answer) -> datetime | None:
        failed = delivery.attempts + 1
        if answer.gone or failed >= len(self._schedule_s):
            return None
        pause_s = self._schedule_s[failed] * random.uniform(1.0, 1.2)  # noqa: S311
        return datetime.now(UTC) + timedelta(seconds=max(pause_s, answer.retry_after_s or 0.0))

    async def _pause(self, event: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)


def _client(endpoint: WebhookEndpoint, settings: WebhookSettings) -> WebhookClient:
    return WebhookClient(endpoint, settings.private_networks, connections=settings.concurrency)


__all__ = ["SCHEDULE_S", "WebhookObserver", "Webhooks"]
