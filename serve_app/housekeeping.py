"""What nobody waits for: keys and counts past their time, files that nothing needs, media and rows past their
retention.

A file is stored before its post, so a crash, a client that leaves or a refused post can leave one behind. Whatever no
post refers to after a grace period longer than any request is deleted, and so is what a broken-off put left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime

from deployments.runtime.errors import NodeUnavailable
from serve_app.http.services import Services
from serve_app.promise import AgeObserver

log = logging.getLogger(__name__)
SWEEP_S = 60.0
WATCH_S = 5.0
STORE_SWEEP_S = 3600.0  # between two looks at the whole store
GRACE_S = 3600.0
_BATCH = 500


async def keep_house(services: Services) -> None:
    """Until cancelled."""
    clock = asyncio.get_running_loop().time
    retention_s = services.settings.media_retention_s
    pause_s = min(STORE_SWEEP_S, retention_s or STORE_SWEEP_S)
    next_store_sweep = 0.0
    while True:
        try:
            if clock() >= next_store_sweep:
                next_store_sweep = clock() + pause_s
                await note_garbage(services)
            await services.records.posts.purge_keys()
            await services.records.references.forget_matches(services.indexing.quarantine_window_s)
            await services.records.retention.sweep(services.retention)
            await services.records.garbage.sweep(services.media_store.delete)
        except Exception:  # the edge of the task: it outlives a sick database or store
            log.exception("housekeeping failed; it will try again")
        await asyncio.sleep(SWEEP_S)


async def watch_ages(services: Services, ages: AgeObserver) -> None:
    """Until cancelled: how old the oldest post is that waits for its verdict."""
    while True:
        with contextlib.suppress(NodeUnavailable):
            oldest = (await services.records.jobs.state()).oldest_post
            age_s = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
            ages.oldest_unfinished("jobs", age_s)
        await asyncio.sleep(WATCH_S)


async def note_garbage(services: Services) -> None:
    """Find the files that no post refers to, and those of posts past the retention; the next sweep deletes them."""
    store, records = services.media_store, services.records
    grace_s = max(GRACE_S, 2 * services.settings.request_timeout_s)
    if services.settings.media_retention_s is not None:
        await records.garbage.expire(services.settings.media_retention_s)
    await store.delete_partial(grace_s)
    old: list[str] = []
    async for digest, age_s in store.files():
        if age_s > grace_s:
            old.append(digest)
        if len(old) == _BATCH:
            await records.garbage.add_unreferenced(old)
            old = []
    if old:
        await records.garbage.add_unreferenced(old)
