"""Compares the records with the index, id by id in the same order, and mends what one of them lacks.

    missing in the index: a reference or list entry is taken from the records; a post is embedded again from its stored
                          media, or told where that is gone
    too much in the index: removed, unless it was brought from outside

What a job still waits for is left to that job, and what the index refused waits for other content. Two databases that
were torn apart by a crash meet again here.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import ContentType
from deployments.similarity.content import Bank, Content
from serve_app.http.services import Services
from serve_app.media_store import MediaMissing
from serve_app.posts import MediaSource
from serve_app.records.errors import PostNotFound
from serve_app.records.reconciling import BANKS

log = logging.getLogger(__name__)
PAGE = 500
DUTY = "reconciliation"
Pages = Callable[[str, int], Awaitable[list[str]]]  # (after, limit) -> ids greater than `after`, in byte order


@dataclass
class Reconciliation:
    """What was found, by bank."""

    compared: int = 0
    missing: dict[str, list[str]] = field(default_factory=dict)  # told to the index again
    extra: dict[str, list[str]] = field(default_factory=dict)  # removed from it
    lost: dict[str, str] = field(default_factory=dict)  # post -> why it cannot be embedded again

    @property
    def clean(self) -> bool:
        return not (any(self.missing.values()) or any(self.extra.values()) or self.lost)


async def reconcile(services: Services) -> Reconciliation:
    """Raises NodeUnavailable where records or index do not answer."""
    found = Reconciliation()
    for bank in BANKS:
        await _bank(services, str(bank), found)
    return found


async def _bank(services: Services, bank: str, found: Reconciliation) -> None:
    """Compare first, mend afterwards: the pages are not read while they change under the hands of this."""
    store, similarity = services.records.reconciling, services.similarity
    sides: dict[str, list[str]] = {"missing": [], "extra": []}
    async for id_, side in differences(partial(store.expected, bank), partial(similarity.ids, bank)):
        found.compared += 1
        if side in sides:
            sides[side].append(id_)
    found.extra[bank] = [id_ for id_ in sides["extra"] if await store.remove(bank, id_)]
    found.missing[bank] = [id_ for id_ in sides["missing"] if await _tell_again(services, bank, id_, found)]


async def differences(expected: Pages, indexed: Pages) -> AsyncIterator[tuple[str, str]]:
    """Every id of either side, in order, with `both`, `missing` (in the index) or `extra`."""
    ours, theirs = _ids(expected), _ids(indexed)
    a, b = await anext(ours, None), await anext(theirs, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a.encode() < b.encode()):
            assert a is not None
            yield a, "missing"
            a = await anext(ours, None)
        elif a is None or b.encode() < a.encode():
            yield b, "extra"
            b = await anext(theirs, None)
        else:
            yield a, "both"
            a, b = await anext(ours, None), await anext(theirs, None)


async def _ids(pages: Pages) -> AsyncIterator[str]:
    after = ""
    while page := await pages(after, PAGE):
        for id_ in page:
            yield id_
        after = page[-1]


async def _tell_again(services: Services, bank: str, id_: str, found: Reconciliation) -> bool:
    store = services.records.reconciling
    if not await store.may_be_told_again(bank, id_):
        return False
    if bank != Bank.POSTS:
        return await store.tell_again(bank, id_)
    try:
        content = await _embedded_again(services, id_)
    except PostNotFound:  # erased meanwhile
        return False
    except (MediaMissing, InvalidInput) as error:
        found.lost[id_] = str(error)
        return False
    return await store.tell_again(bank, id_, content)


async def _embedded_again(services: Services, post_id: str) -> Content:
    post, media_sha256 = await services.records.reconciling.stored(post_id)
    if media_sha256 is not None:
        media = MediaSource(data=await services.media_store.get(media_sha256))
        return await services.moderator.describe(post, media)
    if post.content_type is not ContentType.TEXT:
        raise MediaMissing
    return await services.moderator.describe(post, None)


async def keep_reconciled(services: Services) -> None:
    """Until cancelled. Of all processes over these records one does it at a time: who has the duty keeps it."""
    token, every_s = secrets.token_hex(16), services.indexing.reconcile_every_s
    while True:
        await asyncio.sleep(every_s)
        try:
            if not await services.records.duties.take(DUTY, token, 2 * every_s):
                continue
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(_keep_duty(services, token))
                found = await reconcile(services)
                keeping.cancel()
        except Exception:  # the edge of the task: it outlives a sick database or index
            log.exception("records and index could not be compared; the next time comes")
            continue
        if not found.clean:
            log.warning("records and index differed: %s", summary(found))


async def _keep_duty(services: Services, token: str) -> None:
    """A round may take longer than the lease."""
    every_s = services.indexing.reconcile_every_s
    while True:
        await asyncio.sleep(every_s / 2)
        await services.records.duties.take(DUTY, token, 2 * every_s)


def summary(found: Reconciliation) -> str:
    missing = {bank: len(ids) for bank, ids in found.missing.items() if ids}
    extra = {bank: len(ids) for bank, ids in found.extra.items() if ids}
    return f"{found.compared} compared; told again {missing}; removed {extra}; lost {len(found.lost)}"
