"""Outbox to broker and webhooks, over real records (SQLite) and a broker in the process: nothing is lost, nothing that
is sick stops the rest."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from deployments.runtime.errors import ParakhError
from serve_app.events.brokers.base import BrokerUnavailable, OutRecord
from serve_app.events.brokers.fake import FakeBroker
from serve_app.events.duty import Duty
from serve_app.events.message import Message
from serve_app.events.publisher import OutboxPublisher, backoff_s
from serve_app.events.settings import TopicNames
from serve_app.events.webhooks import Webhooks
from serve_app.media_store import DirectoryMediaStore, MediaStore
from serve_app.records import Records
from serve_app.records.outbox import NewEvent, add
from serve_app.records.tables import OutboxRow
from serve_app.records.values import Conclusion, Refusal
from tests.events.receivers import listening, settings_for, until

VERDICTS = "parakh.verdicts"
DEAD = "parakh.dead-letters"


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    opened = await Records.open(f"sqlite:///{tmp_path}/parakh.db")
    yield opened
    await opened.close()


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker([VERDICTS, DEAD, "parakh.streams"], partitions=1)


class Counted:
    def __init__(self) -> None:
        self.good: list[str] = []
        self.bad: list[tuple[str, str]] = []
        self.ages: list[float] = []

    def published(self, type_: str) -> None:
        self.good.append(type_)

    def publish_failed(self, type_: str, code: str) -> None:
        self.bad.append((type_, code))

    def oldest_unpublished(self, age_s: float) -> None:
        self.ages.append(age_s)


async def write(records: Records, *numbers: int, key: str = "p", topic: str = VERDICTS, **payload: Any) -> None:
    """Events 1, 2, 3 ... of one key."""
    events = [NewEvent(topic, "parakh.post.judged", key, {"n": number, **payload}) for number in numbers]
    await records._database.write(lambda session: add(session, *events))


def publisher(records: Records, broker: FakeBroker | None, **changes: Any) -> OutboxPublisher:
    producer = changes.pop("producer", None) or (None if broker is None else broker.producer())
    duty = changes.pop("duty", None) or Duty(records.duties, "outbox")
    return OutboxPublisher(records.outbox, producer, duty, **({"poll_s": 0.05} | changes))


def numbers(broker: FakeBroker, topic: str = VERDICTS) -> list[int]:
    return [json.loads(message.value)["data"]["n"] for message in broker.messages(topic)]


def ids(broker: FakeBroker) -> list[str]:
    return [json.loads(message.value)["id"] for message in broker.messages(VERDICTS)]


async def drained(given: OutboxPublisher) -> None:
    while await given.publish_once():
        pass


async def test_events_leave_in_order_and_are_marked(records: Records, broker: FakeBroker) -> None:
    await write(records, *range(450))
    counted = Counted()
    await drained(publisher(records, broker, observer=counted))
    assert numbers(broker) == list(range(450))
    assert await records.outbox.pending(10) == []
    assert len(counted.good) == 450


async def test_a_wake_publishes_at_once(records: Records, broker: FakeBroker) -> None:
    running = publisher(records, broker, poll_s=60)
    running.start()
    await asyncio.sleep(0.2)
    await write(records, 1)
    running.wake()
    await until(lambda: numbers(broker) == [1], 2)
    await running.stop()


async def test_what_another_process_wrote_is_found_by_looking(records: Records, broker: FakeBroker) -> None:
    running = publisher(records, broker)
    running.start()
    await asyncio.sleep(0.1)
    await write(records, 1)
    await until(lambda: numbers(broker) == [1], 2)
    await running.stop()


async def test_a_broker_that_was_away_loses_nothing_and_mixes_nothing(
    records: Records, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.events.publisher.backoff_s", lambda failures: 0.05)
    broker.down = True
    counted = Counted()
    running = publisher(records, broker, observer=counted)
    running.start()
    await write(records, *range(5))
    running.wake()
    await asyncio.sleep(0.3)
    assert broker.messages(VERDICTS) == []
    broker.down = False
    await until(lambda: len(counted.good) == 5)
    await running.stop()
    assert numbers(broker) == list(range(5))


class Flaky:
    """Loses the answer of every third record: it arrived, or did not, and nobody knows."""

    def __init__(self, broker: FakeBroker) -> None:
        self._real = broker.producer()
        self._sent = 0

    async def start(self) -> None:
        pass

    async def publish(self, records: Sequence[OutRecord]) -> list[ParakhError | None]:
        results: list[ParakhError | None] = []
        stopped: set[bytes | None] = set()
        for one in records:
            if one.key in stopped:
                results.append(BrokerUnavailable())
                continue
            self._sent += 1
            if self._sent % 3 or self._sent % 2:
                results += await self._real.publish([one])
            if self._sent % 3 == 0:
                results[len(results) - (self._sent % 2) :] = [BrokerUnavailable()]
                stopped.add(one.key)
        return results

    async def close(self) -> None:
        pass


async def test_lost_answers_make_duplicates_under_one_id_and_keep_each_keys_order(
    records: Records, broker: FakeBroker
) -> None:
    for number in range(20):
        await write(records, number, key=f"p{number % 3}")
    flaky = publisher(records, broker, producer=Flaky(broker))
    while await records.outbox.pending(1):
        try:
            await flaky.publish_once()
        except BrokerUnavailable:
            continue
    assert set(numbers(broker)) == set(range(20))
    assert len(ids(broker)) > len(set(ids(broker))) == 20
    for key in range(3):
        firsts = list(dict.fromkeys(n for n in numbers(broker) if n % 3 == key))
        assert firsts == sorted(firsts)


async def test_dying_between_publishing_and_marking_publishes_again_under_the_same_id(
    records: Records, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(records, 1)

    async def dies(*_: object) -> None:
        raise ConnectionError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(records.outbox, "mark_published", dies)
        with pytest.raises(ConnectionError):
            await publisher(records, broker).publish_once()
    await drained(publisher(records, broker))
    assert numbers(broker) == [1, 1]
    assert len(set(ids(broker))) == 1


async def test_an_event_too_large_for_the_broker_waits_and_the_rest_goes_on(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    small = FakeBroker([VERDICTS], partitions=1, max_message_bytes=2000)
    await write(records, 1)
    await write(records, 2, filler="x" * 4000)
    await write(records, 3)
    counted = Counted()
    running = publisher(records, small, observer=counted)
    await drained(running)
    assert numbers(small) == [1, 3]
    assert counted.bad == [("parakh.post.judged", "too_large")]
    assert "cannot leave" in caplog.text
    assert await records.outbox.pending(10) == []  # not before its next attempt
    waits = [60, 120, 240]
    for attempt, wait_s in enumerate(waits):
        failed = await _unpublished(records)
        assert failed[0] == attempt + 1
        assert (failed[1] - datetime.now(UTC)).total_seconds() == pytest.approx(wait_s, abs=5)
        await _let_try_again(records)
        await drained(running)


async def _unpublished(records: Records) -> tuple[int, datetime]:
    row = await records._database.read(
        lambda session: session.scalars(select(OutboxRow).where(OutboxRow.published_at.is_(None))).one()
    )
    assert row.next_attempt_at is not None
    return row.attempts, row.next_attempt_at


async def _let_try_again(records: Records) -> None:
    past = update(OutboxRow).values(next_attempt_at=datetime.now(UTC) - timedelta(seconds=1))
    await records._database.write(lambda session: session.execute(past) and None)


async def test_a_missing_topic_holds_back_only_its_own_events_and_their_order_stays(
    records: Records, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.events.publisher.backoff_s", lambda failures: 0.4)
    running = publisher(records, broker)
    await write(records, 1, topic="parakh.milestones")
    await write(records, 2)
    await drained(running)
    await write(records, 3, topic="parakh.milestones")
    await drained(running)
    assert numbers(broker) == [2]
    broker.ensure_topics(["parakh.milestones"])
    await drained(running)
    assert numbers(broker, "parakh.milestones") == []  # not asked yet
    await asyncio.sleep(0.5)
    await drained(running)
    assert numbers(broker, "parakh.milestones") == [1, 3]


async def bury(records: Records, value: bytes, store: MediaStore | None = None) -> None:
    message = Message("parakh.posts", 2, 5, value, datetime.now(UTC), b"p1", {"trace": b"abc"})
    refusal = Conclusion(message, None, Refusal("not_json", "The value is not JSON."))
    await records.events.conclude([refusal], None if store is None else store.put)


async def test_a_dead_letter_leaves_as_it_came(records: Records, broker: FakeBroker) -> None:
    await bury(records, b"\x00broken\xff")
    await drained(publisher(records, broker))
    (sent,) = broker.messages(DEAD)
    assert (sent.value, sent.key, sent.headers["trace"]) == (b"\x00broken\xff", b"p1", b"abc")
    assert sent.headers["parakh-dead-letter-code"] == b"not_json"
    assert sent.headers["parakh-dead-letter-topic"] == b"parakh.posts"


async def test_a_dead_letter_too_large_for_the_broker_is_referred_to(records: Records) -> None:
    small = FakeBroker([DEAD], partitions=1, max_message_bytes=2000)
    await bury(records, b"x" * 5000)
    await drained(publisher(records, small))
    (sent,) = small.messages(DEAD)
    event = json.loads(sent.value)
    assert event["type"] == "parakh.message.dead"
    assert event["data"]["code"] == "not_json"
    (letter,) = await records.dead_letters.list()
    assert event["subject"] == event["data"]["id"] == letter.id


async def test_a_dead_letter_in_the_media_store_leaves_as_it_came_too_unless_it_is_gone(
    records: Records, broker: FakeBroker, tmp_path: Path
) -> None:
    store = DirectoryMediaStore(tmp_path / "media")
    values = [b"a" * 400_000, b"b" * 400_000]
    for value in values:
        await bury(records, value, store)
    await store.delete(hashlib.sha256(values[1]).hexdigest())
    await drained(publisher(records, broker, values=store))
    first, second = broker.messages(DEAD)
    assert (first.value, first.key) == (values[0], b"p1")
    assert json.loads(second.value)["type"] == "parakh.message.dead"


async def test_without_a_broker_webhooks_are_fed_all_the_same(records: Records, tmp_path: Path) -> None:
    await write(records, 1, 2)
    async with listening() as receiver:
        settings = settings_for(tmp_path, receiver, receiver, e1={"types": ["parakh.stream.*"]})
        webhooks = Webhooks(records.webhooks, settings, Duty(records.duties, "webhooks"), poll_s=0.05)
        running = publisher(records, None, deliveries=webhooks)
        webhooks.start()
        running.start()
        await until(lambda: len(receiver.got) == 2)
        await running.stop()
        await webhooks.stop()
    assert [json.loads(one.body)["data"]["n"] for one in receiver.got] == [1, 2]
    assert await records.webhooks.due(10) == []


async def test_broker_and_webhook_get_the_same_bytes(records: Records, broker: FakeBroker, tmp_path: Path) -> None:
    await write(records, 1)
    async with listening() as receiver:
        webhooks = Webhooks(records.webhooks, settings_for(tmp_path, receiver), Duty(records.duties, "webhooks"))
        await drained(publisher(records, broker, deliveries=webhooks))
        webhooks.start()
        await until(lambda: len(receiver.got) == 1)
        await webhooks.stop()
    (sent,) = broker.messages(VERDICTS)
    assert receiver.got[0].body == sent.value
    assert receiver.ids == ids(broker)


async def test_only_one_process_publishes_and_another_takes_over(records: Records, broker: FakeBroker) -> None:
    first = publisher(records, broker, duty=Duty(records.duties, "outbox", lease_s=2))
    second = publisher(records, broker, duty=Duty(records.duties, "outbox", lease_s=2))
    first.start()
    await asyncio.sleep(0.1)
    second.start()
    await write(records, *range(50))
    await until(lambda: len(numbers(broker)) == 50)
    assert numbers(broker) == list(range(50))
    assert first._task is not None
    first._task.cancel()  # as a process dies: the lease is not given back
    await write(records, 50)
    await until(lambda: numbers(broker)[50:] == [50])
    await second.stop()


async def test_stopping_publishes_what_is_there(records: Records, broker: FakeBroker) -> None:
    running = publisher(records, broker, poll_s=60)
    running.start()
    await asyncio.sleep(0.1)
    await write(records, *range(300))
    await running.stop()
    assert numbers(broker) == list(range(300))


async def test_stopping_does_not_wait_for_a_broker_that_is_away(records: Records, broker: FakeBroker) -> None:
    broker.down = True
    running = publisher(records, broker)
    running.start()
    await write(records, 1)
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await running.stop(drain_s=30)
    assert len(await records.outbox.pending(10)) == 1


async def test_the_age_of_the_oldest_event_is_told(records: Records, broker: FakeBroker) -> None:
    await write(records, 1)
    await asyncio.sleep(0.1)
    counted = Counted()
    await publisher(records, broker, observer=counted, topics=TopicNames()).publish_once()
    assert 0.1 <= counted.ages[0] < 5


def test_back_off_grows_to_half_a_minute() -> None:
    for failures in range(1, 40):
        most = min(2.0 ** (failures - 1), 30)
        assert most / 2 <= backoff_s(failures) <= most
