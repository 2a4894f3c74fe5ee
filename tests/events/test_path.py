"""The event path comes to its end in time, whoever does not answer any more."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.config import AppConfig
from serve_app.events.path import EventPath, OutgoingEvents
from serve_app.media_store import open_media_store
from serve_app.records import Records
from tests.databases import sqlite_url

BROKER = {"kind": "kafka", "servers": ["127.0.0.1:9"]}


class Slow:
    """Something that takes long to stop, and longer still to be cancelled."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began_at: float | None = None

    async def stop(self, drain_s: float) -> None:
        self.began_at = time.monotonic()
        await stubborn(self.seconds)


async def stubborn(seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    while (left_s := ends_at - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left_s)
        except asyncio.CancelledError:
            if left_s < 0.1:
                raise


def outgoing_of(tmp_path: Path, *, publisher: Any, webhooks: Any) -> OutgoingEvents:
    outgoing = OutgoingEvents(
        AppConfig(data_dir=tmp_path), Records(sqlite_url(tmp_path)), open_media_store(str(tmp_path))
    )
    outgoing._publisher, outgoing._webhooks = publisher, webhooks
    return outgoing


async def test_both_ways_out_end_together(tmp_path: Path) -> None:
    began = time.monotonic()
    await outgoing_of(tmp_path, publisher=Slow(0.5), webhooks=Slow(0.5)).stop()
    assert 0.5 <= time.monotonic() - began < 0.9


async def test_a_way_out_that_hangs_or_breaks_costs_the_other_nothing_and_no_more_than_its_time(tmp_path: Path) -> None:
    class Broken:
        async def stop(self, drain_s: float) -> None:
            raise RuntimeError("a secret of the inside")

    webhooks = Slow(0.1)
    await outgoing_of(tmp_path, publisher=Broken(), webhooks=webhooks).stop()
    assert webhooks.began_at is not None
    began = time.monotonic()
    await outgoing_of(tmp_path, publisher=Slow(3), webhooks=Slow(0.1)).stop(within_s=0.3)
    assert time.monotonic() - began < 1


async def test_the_whole_path_ends_before_the_replica_is_killed(tmp_path: Path) -> None:
    """The broker answers nobody, in either direction."""
    graceful_s = 5.5
    config = AppConfig.model_validate(
        {
            "data_dir": tmp_path,
            "events": {
                "broker": BROKER,
                "consumer": {"drain_s": 0.5},
                "replicas": {"graceful_shutdown_timeout_s": graceful_s},
            },
        }
    )
    records, media_store = Records(sqlite_url(tmp_path)), open_media_store(str(tmp_path))
    parts: Any = SimpleNamespace(records=records, media_store=media_store, pipeline=None, clips=None)
    path = EventPath(config, SimpleNamespace(fetch=None), parts)
    path._outgoing._publisher = path._outgoing._webhooks = Slow(8)  # type: ignore[assignment]
    path._running = asyncio.create_task(stubborn(8))
    began = time.monotonic()
    await path.stop()
    assert time.monotonic() - began < graceful_s


def test_a_drain_that_leaves_no_time_for_what_it_drained_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 5 s less"):
        AppConfig.model_validate({"events": {"broker": BROKER, "consumer": {"drain_s": 36}}})
    AppConfig.model_validate({"events": {"consumer": {"drain_s": 36}}})
