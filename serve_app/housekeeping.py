"""What nobody waits for: keys and counts past their time, files that nothing needs, media and rows past their
retention.

It is kept beside the HTTP server and beside the event path, wherever either runs; a lease in the database lets one
process do it at a time. (Two for a moment do no harm.)

A file is stored before its post, so a crash, a client that leaves or a refused post can leave one behind. Whatever no
post refers to after a grace period longer than any request is deleted, and so is what a broken-off put left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.runtime.errors import NodeUnavailable
from serve_app.events.duty import Duty
from serve_app.media_store import MediaStore
from serve_app.promise import AgeObserver
from serve_app.records import Records
from serve_app.records.jobs import JobStore
from serve_app.records.settings import RetentionSettings

log = logging.getLogger(__name__)
SWEEP_S = 60.0
WATCH_S = 5.0
STORE_SWEEP_S = 3600.0  # between two looks at the whole store
GRACE_S = 3600.0
_BATCH = 500


@dataclass(frozen=True)
class House:
    """What is kept, and for how long."""

    records: Records
    media_store: MediaStore
    retention: RetentionSettings
    media_retention_s: float | None  # None: as long as its post
    quarantine_window_s: float
    request_timeout_s: float  # a file of a request in progress has no post yet


async def keep_house(house: House) -> None:
    """Until cancelled."""
    duty = Duty(house.records.duties, "housekeeping", lease_s=3 * SWEEP_S)
    clock = asyncio.get_running_loop().time
    pause_s = min(STORE_SWEEP_S, house.media_retention_s or STORE_SWEEP_S)
    next_store_sweep = 0.0
    try:
        while True:
            try:
                if await duty.hold():
                    is_due = clock() >= next_store_sweep
                    next_store_sweep = clock() + pause_s if is_due else next_store_sweep
                    await _sweep(house, whole_store=is_due)
            except Exception:  # the edge of the task: it outlives a sick database or store
                log.exception("housekeeping failed; it will try again")
            await asyncio.sleep(SWEEP_S)
    finally:
        await duty.give_up()


async def _sweep(house: House, *, whole_store: bool) -> None:
    if whole_store:
        await note_garbage(house)
    await house.records.posts.purge_keys()
    await house.records.references.forget_matches(house.quarantine_window_s)
    await house.records.retention.sweep(house.retention)
    await house.records.garbage.sweep(house.media_store.delete)


async def watch_ages(jobs: JobStore, ages: AgeObserver) -> None:
    """Until cancelled: how old the oldest post is that waits for its verdict."""
    while True:
        with contextlib.suppress(NodeUnavailable):
            oldest = (await jobs.state()).oldest_post
            age_s = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
            ages.oldest_unfinished("jobs", age_s)
        await asyncio.sleep(WATCH_S)


async def note_garbage(house: House) -> None:
    """Find the files that no post refers to, and those of posts past the retention; the next sweep deletes them."""
    store, records = house.media_store, house.records
    grace_s = max(GRACE_S, 2 * house.request_timeout_s)
    if house.media_retention_s is not None:
        await records.garbage.expire(house.media_retention_s)
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
