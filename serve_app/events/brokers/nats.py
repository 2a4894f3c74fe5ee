"""NATS JetStream -> messages in flight -> one acknowledgement for each.

The group is a durable pull consumer for each topic, shared by its members. A topic has one partition, 0; an offset is
the stream's sequence. Order holds for what one member takes the first time: JetStream gives the next message to
whichever member asks, and one that comes again comes late. Where a key's messages must keep their order with several
members, use Kafka.

Pulls are made here and not by nats-py's `fetch`, which loses what arrives after its caller was cancelled: messages
flow into `_ready` as they come, and a topic is asked for more only when the last request is used up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from serve_app.events.brokers.base import BrokerUnavailable
from serve_app.events.brokers.nats_client import FAILURES, closed, connect, from_headers, stream_of
from serve_app.events.message import Message
from serve_app.events.settings import BrokerSettings

log = logging.getLogger(__name__)

ANSWER_S = 1.0
"""How long after a request's end its consumer may take to say so."""

REFUSED_PAUSE_S = 0.25

Place = tuple[str, int, int]


@dataclass
class _Pull:
    """What was asked of one topic's consumer."""

    topic: str
    subject: str  # where requests go
    inbox: str  # where messages come
    stream: str
    consumer: str
    open: int = 0  # asked for and not yet here
    until: float = 0.0  # monotonic: then the request is over


@dataclass
class _Held:
    message: Message
    raw: Msg
    kept: float  # monotonic: the server's last sign of life from us


class NatsSource:
    def __init__(self, settings: BrokerSettings, topics: Sequence[str]) -> None:
        self.keep_every_s = settings.nats.ack_wait_s / 4
        self._settings = settings
        self._topics = tuple(topics)
        self._client: Client | None = None
        self._pulls: list[_Pull] = []
        self._ready: deque[Msg] = deque()  # here, but not yet taken
        self._held: dict[Place, _Held] = {}
        self._arrived = asyncio.Event()
        self._sick = False  # a request was refused: the consumers are looked after before the next

    async def start(self) -> None:
        await self.close()
        client = await connect(self._settings, self._reconnected)
        try:
            for topic in self._topics:
                pull = await self._consumer(client, topic)
                await client.subscribe(f"{pull.inbox}.*", cb=self._receiver(pull))
                self._pulls.append(pull)
        except FAILURES as error:
            await closed(client)
            log.warning("nats: no consumer: %r", error)
            raise BrokerUnavailable from error
        except BaseException:
            await closed(client)
            raise
        self._client = client

    async def _consumer(self, client: Client, topic: str) -> _Pull:
        jetstream = client.jetstream(timeout=self._settings.request_timeout_s)
        stream = await stream_of(jetstream, self._settings, topic)
        name = f"{self._settings.group}_{topic.replace('.', '_')}"
        wanted = ConsumerConfig(
            durable_name=name,
            filter_subject=topic,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._settings.nats.ack_wait_s,
            max_ack_pending=self._settings.nats.max_ack_pending,
            max_deliver=-1,
            deliver_policy=DeliverPolicy.ALL,
        )
        await jetstream.add_consumer(stream, wanted)  # changes nothing where it exists as wanted
        return _Pull(topic, f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", client.new_inbox(), stream, name)

    async def take(self, limit: int, wait_s: float) -> list[Message]:
        client = self._running()
        deadline = time.monotonic() + wait_s
        while not self._ready:
            left = deadline - time.monotonic()
            if not client.is_connected or left <= 0:
                break
            await self._ask(client, limit, left)
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                break
            self._arrived.clear()
            if self._sick:
                await asyncio.sleep(min(REFUSED_PAUSE_S, wait_s))
        if not self._ready and not client.is_connected:
            raise BrokerUnavailable
        return [self._hold(self._ready.popleft()) for _ in range(min(limit, len(self._ready)))]

    async def _ask(self, client: Client, limit: int, wait_s: float) -> None:
        now = time.monotonic()
        if any(pull.open > 0 and now > pull.until + ANSWER_S for pull in self._pulls):
            self._sick = True  # a consumer that does not exist is silent
        if self._sick:
            await self._mend(client)
        for pull in self._pulls:
            if pull.open > 0:
                continue
            request = {"batch": limit, "expires": int(wait_s * 1e9)}
            pull.open, pull.until = limit, now + wait_s
            try:
                await client.publish(pull.subject, json.dumps(request).encode(), reply=f"{pull.inbox}.{int(now * 1e6)}")
            except FAILURES as error:
                raise BrokerUnavailable from error

    def _receiver(self, pull: _Pull):  # type: ignore[no-untyped-def]
        async def receive(raw: Msg) -> None:
            if raw.reply.startswith("$JS.ACK."):
                pull.open -= 1
                self._ready.append(raw)
                self._arrived.set()
                return
            status = (raw.headers or {}).get("Status", "")
            if status in ("404", "408"):  # nothing there, or the time is over
                pull.open = 0
            elif status != "100":
                log.info("nats: a request for %s was refused: %s", pull.topic, raw.headers)
                pull.open = 0
                self._sick = True
            self._arrived.set()

        return receive

    async def _mend(self, client: Client) -> None:
        """Makes what a server that came back may have lost; changes nothing where all is there."""
        try:
            for pull in self._pulls:
                await self._consumer(client, pull.topic)
                pull.open = 0
        except FAILURES as error:
            raise BrokerUnavailable from error
        self._sick = False

    async def _reconnected(self) -> None:
        self._sick = True
        self._arrived.set()

    def _hold(self, raw: Msg) -> Message:
        found = raw.metadata
        key, headers = from_headers(raw.headers)
        message = Message(
            topic=raw.subject,
            partition=0,
            offset=found.sequence.stream,
            value=raw.data,
            timestamp=found.timestamp,
            key=key,
            headers=headers,
        )
        self._held[message.place] = _Held(message, raw, time.monotonic())
        return message

    async def done(self, messages: Sequence[Message]) -> None:
        for message in messages:
            held = self._held.pop(message.place, None)
            if held is not None:
                await self._tell(held.raw.ack)
        await self._flush()

    async def release(self, messages: Sequence[Message]) -> None:
        for message in messages:
            held = self._held.pop(message.place, None)
            if held is not None:
                await self._tell(held.raw.nak)
        await self._flush()

    async def keep(self, messages: Sequence[Message]) -> None:
        """What arrived and is not yet taken is kept too."""
        for raw in self._ready:
            await self._tell(raw.in_progress)
        for message in messages:
            held = self._held.get(message.place)
            if held is not None and held.message is message and await self._tell(held.raw.in_progress):
                held.kept = time.monotonic()

    async def _tell(self, say) -> bool:  # type: ignore[no-untyped-def]
        if self._client is None or not self._client.is_connected:
            return False
        try:
            await say()
        except FAILURES as error:
            log.info("nats: not heard, the message comes again: %r", error)
            return False
        return True

    async def _flush(self) -> None:
        """What was said is with the server after this."""
        if self._client is None or not self._client.is_connected:
            return
        try:
            await self._client.flush(max(1, round(self._settings.request_timeout_s)))
        except FAILURES as error:
            log.info("nats: acknowledgements may be lost: %r", error)

    def lost(self, messages: Iterable[Message]) -> list[Message]:
        expired = time.monotonic() - self._settings.nats.ack_wait_s
        return [m for m in messages if (h := self._held.get(m.place)) is None or h.message is not m or h.kept < expired]

    async def lag(self) -> dict[str, int] | None:
        if self._client is None or not self._client.is_connected:
            return None
        jetstream = self._client.jetstream(timeout=self._settings.request_timeout_s)
        behind: dict[str, int] = {}
        try:
            for pull in self._pulls:
                found = await jetstream.consumer_info(pull.stream, pull.consumer)
                behind[pull.topic] = (found.num_pending or 0) + (found.num_ack_pending or 0)
        except FAILURES:
            return None
        return behind

    async def close(self) -> None:
        for raw in (*self._ready, *(held.raw for held in self._held.values())):
            await self._tell(raw.nak)
        await self._flush()
        client, self._client = self._client, None
        if client is not None:
            await closed(client)
        self._pulls = []
        self._ready.clear()
        self._held.clear()

    def _running(self) -> Client:
        if self._client is None:
            raise BrokerUnavailable("The message broker was not reached yet.")
        return self._client
