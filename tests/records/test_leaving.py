"""Events on their way out: to the broker, then to webhooks; and the duty that only one process has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from serve_app.records import Records, leases, outbox
from serve_app.records.leases import now
from tests.records.conclusions import concluded, judged_post, told


async def some_events(records: Records, count: int) -> list[int]:
    await records.events.conclude([concluded(judged_post(f"p{n}")) for n in range(count)])
    return [event.id for event in await told(records)]


class TestOutbox:
    async def test_oldest_first_until_it_is_published(self, records: Records) -> None:
        assert await records.outbox.oldest_unpublished() is None
        ids = await some_events(records, 3)
        assert [event.key for event in await records.outbox.pending(2)] == ["p0", "p1"]
        assert (await records.outbox.pending())[0].created_at == await records.outbox.oldest_unpublished()
        await records.outbox.mark_published(ids[:2])
        assert [event.key for event in await records.outbox.pending()] == ["p2"]

    async def test_what_the_broker_refused_waits_and_keeps_its_id(self, records: Records) -> None:
        ids = await some_events(records, 2)
        before = await records.outbox.pending()
        await records.outbox.failed(ids[:1], "too large\x00", now() + timedelta(seconds=60))
        assert [event.id for event in await records.outbox.pending()] == ids[1:]
        await records.outbox.failed(ids[:1], "too large", now() - timedelta(seconds=1))
        after = await records.outbox.pending()
        assert [event.event_id for event in after] == [event.event_id for event in before]
        assert [event.attempts for event in after] == [2, 0]


class TestWebhooks:
    async def test_a_delivery_follows_its_publication_until_it_is_done(self, records: Records) -> None:
        (id_,) = await some_events(records, 1)
        (event,) = await records.outbox.pending()
        pairs = [(event.event_id, "one"), (event.event_id, "two")]
        await records.outbox.mark_published([id_], pairs)
        await records.outbox.mark_published([id_], pairs)
        assert {delivery.endpoint for delivery in await records.webhooks.due()} == {"one", "two"}
        (one,) = await records.webhooks.due(endpoints=["one"])
        assert (one.type, one.key, one.payload, one.attempts) == (outbox.POST_JUDGED, "p0", event.payload, 0)
        await records.webhooks.failed(event.event_id, "one", 503, "busy", now() + timedelta(seconds=60))
        await records.webhooks.delivered(event.event_id, "two", 204)
        assert await records.webhooks.due() == []
        assert await records.webhooks.oldest_open() is not None
        await records.webhooks.failed(event.event_id, "one", None, "no answer", now() - timedelta(seconds=1))
        assert [delivery.attempts for delivery in await records.webhooks.due()] == [2]
        await records.webhooks.failed(event.event_id, "one", 410, "gone", None)
        assert await records.webhooks.due() == []
        assert await records.webhooks.oldest_open() is None

    async def test_erasure_takes_open_deliveries_along(self, records: Records) -> None:
        (id_,) = await some_events(records, 1)
        (event,) = await records.outbox.pending()
        await records.outbox.mark_published([id_], [(event.event_id, "one")])
        await records.erasures.erase("p0", "a")
        assert await records.webhooks.due() == []

    async def test_an_event_that_is_erased_while_it_is_published_has_no_delivery(self, records: Records) -> None:
        ids = await some_events(records, 2)
        events = await records.outbox.pending()
        await records.erasures.erase("p0", "a")
        await records.outbox.mark_published(ids, [(event.event_id, "one") for event in events])
        assert [delivery.key for delivery in await records.webhooks.due()] == ["p1"]


class TestDuties:
    async def test_one_process_at_a_time(self, records: Records, open_records: Callable[[], Any]) -> None:
        stores = [records, await open_records(), await open_records()]
        taken = await asyncio.gather(*(stores[n % 3].duties.take("outbox", f"t{n}", 60) for n in range(12)))
        assert sum(taken) == 1
        holder = f"t{taken.index(True)}"
        assert await records.duties.take("outbox", holder, 60)
        assert await records.duties.take("another", "x", 60)
        await records.duties.give_back("outbox", "x")
        assert not await records.duties.take("outbox", "x", 60)
        await records.duties.give_back("outbox", holder)
        assert await records.duties.take("outbox", "x", 60)

    async def test_a_process_whose_clock_is_fast_takes_no_duty_away(
        self, records: Records, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if records._database.url.drivername == "sqlite":
            pytest.skip("one machine, one clock")
        assert await records.duties.take("outbox", "holder", 60)
        monkeypatch.setattr(leases, "now", lambda: now() + timedelta(hours=1))
        assert not await records.duties.take("outbox", "fast", 60)
        await records.duties.give_back("outbox", "holder")
        assert await records.duties.take("outbox", "fast", 0.05)
        monkeypatch.undo()
        await asyncio.sleep(0.1)
        assert await records.duties.take("outbox", "another", 60)  # not held for an hour longer

    async def test_a_dead_process_loses_its_duty_in_time(self, records: Records) -> None:
        assert await records.duties.take("outbox", "dead", 0.05)
        assert not await records.duties.take("outbox", "alive", 60)
        await asyncio.sleep(0.1)
        assert await records.duties.take("outbox", "alive", 60)
        assert not await records.duties.take("outbox", "dead", 60)
