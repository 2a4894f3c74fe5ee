"""The event path put together, with a broker that is not there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from serve_app.assembly import assemble
from serve_app.config import AppConfig
from serve_app.events.path import EventPath
from serve_app.local_nodes import LocalNodes
from serve_app.media_store import open_media_store
from serve_app.records import Records
from serve_app.records.settings import RetentionSettings
from tests.records.conclusions import concluded, views


async def test_it_keeps_house_where_no_server_runs(fake_config: AppConfig) -> None:
    broker = fake_config.events.broker.model_validate({"kind": "kafka", "servers": ["127.0.0.1:1"]})
    config = fake_config.model_copy(
        update={
            "events": fake_config.events.model_copy(update={"broker": broker}),
            "retention": RetentionSettings(consumed_events_s=0.001),
        }
    )
    records = await Records.open(config.records_url)
    event = concluded(views(1))
    assert event.event is not None
    await records.events.conclude([event])
    media = open_media_store(config.media_store_url)
    await media.put(b"its process died before the commit")
    for file in Path(media._root).rglob("*"):  # type: ignore[attr-defined]
        os.utime(file, (0, 0))
    nodes = LocalNodes(config)
    path = EventPath(config, nodes, assemble(config, nodes, None))
    await path.start()
    async with asyncio.timeout(10):
        while [name async for name in media.files()] or await records.events.known([event.event]):
            await asyncio.sleep(0.05)
    await path.stop()
    await nodes.close()
    assert await records.duties.take("housekeeping", "another", 60)  # it was given up
    await records.close()
