"""What the event path asks of a broker: a source of messages for one member of a group, and a producer.

A source gives messages (`take`), the consumer works them off in any order, several at a time, and says so once they
are stored (`done`). What was never said to be done comes again, to this member or to another. The same message may
therefore come twice, and whoever stores it must not mind.

    NodeUnavailable
    └── BrokerUnavailable     503  the broker does not answer; asking again may help
        └── TopicMissing      503  the broker answers, but has no such topic: `ensure_topics` creates it
    TooLarge
    └── MessageTooLarge       413  this record is larger than the broker takes; it will never be sent

FastStream was looked at and left. What is needed is a window of messages in flight, ended in any order, of which the
highest contiguous offset of each partition is committed; FastStream's acknowledgement of a Kafka message commits
the consumer's position, which lies behind everything that was fetched, in work or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deployments.runtime.errors import NodeUnavailable, ParakhError, TooLarge
from serve_app.events.message import Message


class BrokerUnavailable(NodeUnavailable):
    message = "The message broker does not answer."


class TopicMissing(BrokerUnavailable):
    message = "The message broker has no such topic."


class MessageTooLarge(TooLarge):
    message = "The message is larger than the broker accepts."


@dataclass(frozen=True)
class OutRecord:
    topic: str
    key: bytes | None  # records of one key keep their order; None: no order
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)
    id: str = ""  # stable over retries: NATS drops a second one within its window, Kafka ignores it


class Source(Protocol):
    """One member of a consumer group. One task takes; `done`, `release` and `keep` may be called beside it."""

    keep_every_s: float
    """`keep` must be called at least this often while messages are in work or `take` is not called."""

    async def start(self) -> None:
        """Begins, or begins anew: what was taken and is not done comes again. Raises BrokerUnavailable; may then be
        called again."""

    async def take(self, limit: int, wait_s: float) -> list[Message]:
        """Up to `limit` messages of all topics as soon as there is one, in order within a partition; none after
        `wait_s`. May be cancelled without loss. Raises BrokerUnavailable; may then be called again."""

    async def done(self, messages: Sequence[Message]) -> None:
        """Worked off and stored. Never raises for a broker that is away: what it did not hear comes again."""

    async def release(self, messages: Sequence[Message]) -> None:
        """Given back unworked, at drain. They come again, to another member at once where the broker can do that."""

    async def keep(self, messages: Sequence[Message]) -> None:
        """Still in work, and this member still alive. Without it the broker gives them to others."""

    def lost(self, messages: Iterable[Message]) -> list[Message]:
        """Those of `messages`, all taken here and neither done nor released, that another member may have by now.
        What was not begun should be dropped; what is stored all the same does no harm."""

    async def lag(self) -> dict[str, int] | None:
        """Topic -> messages that are not done: of this member's partitions (Kafka) or of the group (NATS).
        None where it cannot be told now."""

    async def close(self) -> None:
        """Leaves the group. What was taken and is not done comes again. Never raises."""


class Producer(Protocol):
    async def start(self) -> None:
        """Raises BrokerUnavailable; may then be called again."""

    async def publish(self, records: Sequence[OutRecord]) -> list[ParakhError | None]:
        """None for each record that is durable now. BrokerUnavailable: may or may not have arrived, send it again.
        Records of one key are sent in order, and none after one that may not have arrived."""

    async def close(self) -> None:
        """Never raises."""


async def publish_in_order(
    records: Sequence[OutRecord], send: Callable[[OutRecord], Awaitable[ParakhError | None]]
) -> list[ParakhError | None]:
    """Sends in rounds, the n-th record of every key in the n-th: all keys at once, and each in its order. A key whose
    record may not have arrived sends no more."""
    results: list[ParakhError | None] = [None] * len(records)
    waiting = _rounds(records)
    stopped: dict[tuple[str, bytes], ParakhError] = {}
    for places in waiting:
        going = []
        for place in places:
            error = stopped.get(_order(records[place])) if records[place].key is not None else None
            if error is None:
                going.append(place)
            results[place] = error
        for place, error in zip(going, await _all(send(records[place]) for place in going), strict=True):
            results[place] = error
            if isinstance(error, BrokerUnavailable) and records[place].key is not None:
                stopped[_order(records[place])] = error
    return results


def _order(record: OutRecord) -> tuple[str, bytes]:
    return record.topic, record.key or b""


def _rounds(records: Sequence[OutRecord]) -> list[list[int]]:
    rounds: list[list[int]] = []
    seen: dict[tuple[str, bytes], int] = {}
    for place, record in enumerate(records):
        turn = 0
        if record.key is not None:
            turn = seen.get(_order(record), 0)
            seen[_order(record)] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(place)
    return rounds


async def _all(sending: Iterable[Awaitable[ParakhError | None]]) -> list[ParakhError | None]:
    return list(await asyncio.gather(*sending))
