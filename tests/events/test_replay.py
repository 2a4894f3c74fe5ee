"""Dead letters on their way back: in order, one large value at a time, and none stuck behind one that cannot go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from deployments.runtime.errors import ParakhError
from serve_app.events import replay as replay_module
from serve_app.events.brokers import BrokerUnavailable, MessageTooLarge, OutRecord
from serve_app.events.replay import Choice, Replay
from serve_app.media_store import MediaStore, open_media_store
from serve_app.records import Records
from serve_app.records.dead_letters import MAX_VALUE_BYTES
from serve_app.records.values import Conclusion
from tests.databases import sqlite_url
from tests.records.conclusions import REFUSAL, message

LARGE = MAX_VALUE_BYTES + 1


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    opened = await Records.open(sqlite_url(tmp_path))
    yield opened
    await opened.close()


@pytest.fixture
def media_store(tmp_path: Path) -> MediaStore:
    return open_media_store(str(tmp_path / "media"))


class Broker:
    """Takes what it is given, but for keys it refuses."""

    def __init__(self) -> None:
        self.refused: dict[bytes, ParakhError] = {}
        self.offsets: list[int] = []
        self.largest = 0  # bytes given at once

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def publish(self, records: Sequence[OutRecord]) -> list[ParakhError | None]:
        self.largest = max(self.largest, sum(len(record.value) for record in records))
        errors = [self.refused.get(record.key or b"") for record in records]
        self.offsets += [int(record.key or b"") for record, error in zip(records, errors, strict=True) if error is None]
        return errors


async def bury(records: Records, media_store: MediaStore, *sizes: int) -> None:
    """One letter of each size; its key is its number."""
    for number, size in enumerate(sizes):
        value = (b"%d" % number).ljust(size)
        dead = Conclusion(message(number, value=value, key=b"%d" % number), None, REFUSAL)
        assert await records.events.conclude([dead], media_store.put) == ["dead"]


async def replayed(
    records: Records, media_store: MediaStore, broker: Broker, **choice: str
) -> tuple[Replay, list[str]]:
    told: list[str] = []
    replay = Replay(records.dead_letters, lambda id_, reason: told.append(reason))
    await replay.send(Choice(**choice), broker, media_store)  # type: ignore[arg-type]
    return replay, told


async def test_all_go_oldest_first_and_those_that_fail_hide_no_other(
    records: Records, media_store: MediaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "PAGE", 2)
    broker = Broker()
    broker.refused = {b"%d" % number: MessageTooLarge() for number in (5, 6, 7)}
    await bury(records, media_store, *[10] * 8)
    replay, told = await replayed(records, media_store, broker)
    assert (replay.sent, replay.failed, broker.offsets) == (5, 3, [0, 1, 2, 3, 4])
    assert told == [str(MessageTooLarge())] * 3
    broker.refused = {}
    replay, _ = await replayed(records, media_store, broker, code=REFUSAL.code)
    assert (replay.sent, broker.offsets[5:]) == (3, [5, 6, 7])


async def test_a_value_that_is_gone_fails_alone_and_large_ones_go_one_by_one(
    records: Records, media_store: MediaStore
) -> None:
    broker = Broker()
    await bury(records, media_store, 10, LARGE, LARGE + 1, 10, LARGE + 2)
    gone = next(letter for letter in await records.dead_letters.list() if letter.size == LARGE + 1)
    await media_store.delete(gone.value_sha256 or "")
    replay, told = await replayed(records, media_store, broker)
    assert (replay.sent, replay.failed, broker.offsets) == (4, 1, [0, 1, 3, 4])
    assert "media store" in told[0]
    assert broker.largest == LARGE + 2


async def test_letters_by_id_go_in_the_order_given_and_an_unknown_one_is_told(
    records: Records, media_store: MediaStore
) -> None:
    await bury(records, media_store, 10, 10, 10)
    ids = {letter.offset: letter.id for letter in await records.dead_letters.list()}
    broker, told = Broker(), []
    replay = Replay(records.dead_letters, lambda id_, reason: told.append(id_))
    await replay.send(Choice([ids[2], "unknown", ids[0]]), broker, media_store)
    assert (replay.sent, replay.failed, broker.offsets, told) == (2, 1, [2, 0], ["unknown"])


async def test_a_broker_that_is_away_ends_it_and_what_went_is_marked(
    records: Records, media_store: MediaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "PAGE", 2)
    broker = Broker()
    broker.refused = {b"3": BrokerUnavailable()}
    await bury(records, media_store, *[10] * 6)
    with pytest.raises(BrokerUnavailable):
        await replayed(records, media_store, broker)
    assert broker.offsets == [0, 1, 2]
    assert {letter.offset for letter in await records.dead_letters.list(replayed=False)} == {3, 4, 5}


async def test_a_letter_that_dies_again_meanwhile_is_not_sent_twice(
    records: Records, media_store: MediaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_module, "PAGE", 1)

    class Deadly(Broker):
        async def publish(self, given: Sequence[OutRecord]) -> list[ParakhError | None]:
            assert len(self.offsets) < 5
            number = int(given[0].key or b"")
            again = message(100 + len(self.offsets), value=b"dead", key=b"%d" % number)
            await records.events.conclude([Conclusion(again, None, REFUSAL)], media_store.put)
            return await super().publish(given)

    await bury(records, media_store, 10, 10)
    replay, _ = await replayed(records, media_store, Deadly())
    assert replay.sent == 2


async def test_counting_sends_nothing(records: Records, media_store: MediaStore) -> None:
    await bury(records, media_store, 10, 10)
    replay = Replay(records.dead_letters, lambda id_, reason: None)
    await replay.count(Choice(topic="posts"))
    assert (replay.sent, len(await records.dead_letters.list(replayed=False))) == (2, 2)
