"""Deliveries: who is told, when it is tried again, when it ends; over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from serve_app.events.duty import Duty
from serve_app.events.webhook_settings import WebhookSettings
from serve_app.events.webhooks import SCHEDULE_S, Webhooks
from tests.events.receivers import MemoryDuties, MemoryWebhooks, Receiver, delivery, listening, settings_for, until

FAST = (0.0, 0.05, 0.05)


class Counted:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def delivered(self, endpoint: str) -> None:
        self.told.append(("delivered", endpoint))

    def failed(self, endpoint: str, status: int | None) -> None:
        self.told.append((f"failed {status}", endpoint))

    def gave_up(self, endpoint: str) -> None:
        self.told.append(("gave up", endpoint))


def webhooks(store: MemoryWebhooks, settings: WebhookSettings, **changes: Any) -> Webhooks:
    given: dict[str, Any] = {"duty": Duty(MemoryDuties(), "webhooks"), "poll_s": 0.02, "schedule_s": FAST} | changes
    return Webhooks(store, settings, **given)


async def test_an_event_is_delivered_once_and_verifies(tmp_path: Path) -> None:
    store = MemoryWebhooks(delivery())
    async with listening() as receiver:
        served = webhooks(store, settings_for(tmp_path, receiver))
        served.start()
        await until(lambda: store.outcomes() == ["delivered"])
        await asyncio.sleep(0.1)
        await served.stop()
    assert receiver.ids == ["ev1"]
    secret = (tmp_path / "secret0").read_text().strip()
    event = Webhook(secret).verify(receiver.got[0].body, receiver.got[0].headers)
    assert event == {
        "specversion": "1.0",
        "id": "ev1",
        "source": "/parakh",
        "type": "parakh.post.judged",
        "subject": "p1",
        "time": "2026-11-21T10:00:00Z",
        "datacontenttype": "application/json",
        "data": {"post_id": "p1", "action": "block"},
    }


async def test_a_failure_is_tried_again_under_the_same_id_with_the_same_bytes(tmp_path: Path) -> None:
    store, counted = MemoryWebhooks(delivery()), Counted()
    async with listening(answer=lambda n: "500 Oops" if n < 2 else "200 OK") as receiver:
        served = webhooks(store, settings_for(tmp_path, receiver), observer=counted)
        served.start()
        await until(lambda: store.outcomes() == ["delivered"])
        await served.stop()
    assert receiver.ids == ["ev1"] * 3
    assert len({one.body for one in receiver.got}) == 1
    assert [what for what, _ in counted.told] == ["failed 500", "failed 500", "delivered"]


async def test_after_the_schedule_it_is_given_up_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, counted = MemoryWebhooks(delivery()), Counted()
    async with listening(answer=lambda _: "500 Oops") as receiver:
        served = webhooks(store, settings_for(tmp_path, receiver), observer=counted)
        served.start()
        await until(lambda: store.outcomes() == ["given up"])
        await served.stop()
    assert len(receiver.got) == len(FAST)
    assert counted.told[-1] == ("gave up", "e0")
    assert "ev1" in caplog.text


def failed_once(store: MemoryWebhooks) -> bool:
    return store.kept["ev1", "e0"].error is not None


async def test_the_schedule_is_the_specifications(tmp_path: Path) -> None:
    hours = [2, 5, 10, 14, 20, 24]
    assert list(SCHEDULE_S) == [0, 5, 300, 1800, *(3600 * one for one in hours)]
    for failed, expected_s in enumerate(SCHEDULE_S[1:]):
        store = MemoryWebhooks(delivery(attempts=failed))
        async with listening(answer=lambda _: "500 Oops") as receiver:
            served = webhooks(store, settings_for(tmp_path, receiver), schedule_s=SCHEDULE_S)
            served.start()
            await until(partial(failed_once, store))
            await served.stop()
        pause_s = (store.kept["ev1", "e0"].next_at - datetime.now(UTC)).total_seconds()
        assert 0.9 * expected_s - 2 <= pause_s <= 1.2 * expected_s


async def test_gone_ends_the_endpoint_and_stays_visible(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryWebhooks(*(delivery(f"ev{n}") for n in range(20)))
    async with listening(answer=lambda _: "410 Gone") as receiver:
        served = webhooks(store, settings_for(tmp_path, receiver, concurrency=1))
        assert served.endpoints_of("parakh.post.judged") == ["e0"]
        served.start()
        await until(lambda: served.disabled == ["e0"])
        await asyncio.sleep(0.1)
        assert served.endpoints_of("parakh.post.judged") == []
        await served.stop()
    assert len(receiver.got) == 1
    assert "e0 answered 410" in caplog.text
    assert store.outcomes().count("open") == 19


async def test_an_endpoint_that_asks_for_rest_gets_it_for_all_events(tmp_path: Path) -> None:
    store = MemoryWebhooks(*(delivery(f"ev{n}") for n in range(6)))
    answered: list[float] = []

    def answer(before: int) -> str:
        answered.append(time.monotonic())
        return "429 Slow\r\nRetry-After: 1" if before == 0 else "200 OK"

    async with listening(answer=answer) as receiver:
        served = webhooks(store, settings_for(tmp_path, receiver, concurrency=1))
        served.start()
        await until(lambda: store.outcomes() == ["delivered"] * 6)
        await served.stop()
    assert answered[1] - answered[0] >= 0.95
    assert store.kept["ev0", "e0"].delivery.attempts == 1


async def test_a_slow_endpoint_is_slow_for_itself_alone_and_bounded(tmp_path: Path) -> None:
    names = ("e0", "e1")
    store = MemoryWebhooks(*(delivery(f"ev{n}", name) for n in range(40) for name in names))
    async with listening(delay_s=1.5) as slow, listening() as quick:
        served = webhooks(store, settings_for(tmp_path, slow, quick, concurrency=2))
        served.start()
        started = time.monotonic()
        await until(lambda: store.outcomes("e1") == ["delivered"] * 40)
        assert time.monotonic() - started < 1.5
        assert len(slow.got) <= 2
        await served.stop(drain_s=0.1)


async def test_what_was_cut_off_in_the_middle_is_posted_again_by_the_next_process(tmp_path: Path) -> None:
    store = MemoryWebhooks(delivery())
    async with listening(delay_s=0.5) as receiver:
        settings = settings_for(tmp_path, receiver)
        first = webhooks(store, settings)
        first.start()
        await until(lambda: len(receiver.got) == 1)
        for task in first._tasks:  # as a process dies: nothing is written down, no lease given back
            task.cancel()
        assert store.outcomes() == ["open"]
        second = webhooks(store, settings)
        second.start()
        await until(lambda: store.outcomes() == ["delivered"])
        await second.stop()
    assert receiver.ids == ["ev1", "ev1"]


async def test_stopping_waits_for_the_posts_that_run(tmp_path: Path) -> None:
    store = MemoryWebhooks(delivery())
    async with listening(delay_s=0.3) as receiver:
        served = webhooks(store, settings_for(tmp_path, receiver))
        served.start()
        await until(lambda: len(receiver.got) == 1)
        await served.stop(drain_s=5)
    assert store.outcomes() == ["delivered"]


async def test_only_one_process_posts(tmp_path: Path) -> None:
    store, duties = MemoryWebhooks(*(delivery(f"ev{n}") for n in range(30))), MemoryDuties()
    async with listening() as receiver:
        settings = settings_for(tmp_path, receiver)
        both = [webhooks(store, settings, duty=Duty(duties, "webhooks")) for _ in range(2)]
        for served in both:
            served.start()
        await until(lambda: store.outcomes() == ["delivered"] * 30)
        for served in both:
            await served.stop()
    assert sorted(receiver.ids) == sorted(f"ev{n}" for n in range(30))
    assert duties.holders == {}


async def test_a_store_that_fails_stops_nothing_for_good(tmp_path: Path) -> None:
    class Failing(MemoryWebhooks):
        failures = 2

        async def due(self, limit: int = 100, endpoints: Sequence[str] | None = None) -> list[Any]:
            self.failures -= 1
            if self.failures >= 0:
                raise ZeroDivisionError("not one of ours")
            return list(await super().due(limit, endpoints))

    store = Failing(delivery())
    async with listening() as receiver:
        served = webhooks(store, settings_for(tmp_path, receiver))
        served.start()
        await until(lambda: store.outcomes() == ["delivered"])
        await served.stop()


async def test_deliveries_of_an_endpoint_that_was_removed_end_after_days(tmp_path: Path) -> None:
    old = datetime.now(UTC) - timedelta(days=5)
    store = MemoryWebhooks(
        delivery("old", "removed", created_at=old),
        delivery("new", "removed", created_at=datetime.now(UTC)),
        delivery("ours", "e0", created_at=old),
    )
    served = webhooks(store, settings_for(tmp_path, Receiver(port=1)))
    await served.abandon()
    assert store.outcomes("removed") == ["given up", "open"]
    assert store.outcomes("e0") == ["open"]


async def test_an_endpoint_that_cannot_sign_waits_says_so_and_spends_no_attempt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.events.webhooks.NO_SECRET_REST_S", 0.1)
    store = MemoryWebhooks(delivery())
    async with listening() as receiver:
        settings = settings_for(tmp_path, receiver)
        file = settings.endpoints[0].secret_file
        secret = file.read_text()
        file.unlink()
        served = webhooks(store, settings)
        served.start()
        await until(lambda: "secret0 cannot be read" in caplog.text)
        assert receiver.got == []
        file.write_text(secret)
        await until(lambda: store.outcomes() == ["delivered"])
        await served.stop()
    assert store.kept["ev1", "e0"].delivery.attempts == 0
