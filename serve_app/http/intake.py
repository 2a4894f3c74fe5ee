"""How a post is taken in: media into the store, post and job into the records, then a verdict now or later.

In that order, so that what was acknowledged is never lost: a crash before the commit leaves at most an unused file,
a crash after it leaves a job that another worker finishes. Media behind a URL is fetched first, once: what is judged
is what is kept. Identical posts at the same time are judged once; the others wait for that verdict. Acceptance and
judgement are one task of their own, which a client that leaves does not break off.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from deployments.runtime.errors import DeadlineExceeded, FetchFailed, InvalidInput, ParakhError, TooLarge
from deployments.runtime.values import ContentType
from serve_app.http.errors import MediaRequired, recorded_error
from serve_app.http.services import Services
from serve_app.jobs_worker import JobWorker, attempt, kept_alive, settle, whole
from serve_app.posts import MediaSource, Post, Verdict
from serve_app.records.errors import Conflict, LeaseLost, MediaBeingDeleted, PostErased, PostNotFound
from serve_app.records.values import Lease, PostState, Submission, Ticket

STORE_MARGIN_S = 0.25  # of the request's time, kept for storing the verdict
_FIRST_LOOK_S, _LAST_LOOK_S = 0.02, 0.25


@dataclass(frozen=True)
class Answer:
    """A verdict, or the state of a job that will earn one."""

    verdict: Verdict | None
    pending: PostState | None
    replayed: bool


@dataclass(frozen=True)
class Caller:
    owner: str  # API key id; empty with auth off
    idempotency_key: str | None
    respond_async: bool


@dataclass(frozen=True)
class _Entry:
    """A post whose media lies in the store."""

    submission: Submission
    media: MediaSource | None
    respond_async: bool
    ends_at: float  # on the event loop's clock


class Intake:
    def __init__(self, services: Services, worker: JobWorker) -> None:
        self._services = services
        self._worker = worker
        self._running: set[asyncio.Task[Answer | None]] = set()

    async def submit(self, post: Post, media: MediaSource | None, caller: Caller, time_left_s: float) -> Answer:
        """Raises InvalidInput, TooLarge, FetchFailed, Conflict, or what the moderator raised."""
        check_shape(post, media, self._services.settings.max_caption_chars)
        entry = await self._enter(post, media, caller, _clock() + time_left_s)
        answer = await self._on_its_own(entry)
        while answer is None:
            await self._other_worker(post)
            entry = replace(entry, submission=replace(entry.submission, idempotency_key=None))
            answer = await self._on_its_own(entry)
        return answer

    async def drain(self) -> None:
        """Wait for judgements whose client has left."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _enter(self, post: Post, media: MediaSource | None, caller: Caller, ends_at: float) -> _Entry:
        """Fetch what is behind a URL, unless it is known, and put the media into the store."""
        url, sent = (media.url, media.data) if media is not None else (None, None)
        digest = await self._services.media_store.put(sent) if sent is not None else None
        submission = Submission(
            post=post,
            fingerprint=fingerprint(post, digest, url),
            media_sha256=digest,
            media_url=url,
            owner=caller.owner,
            idempotency_key=caller.idempotency_key,
        )
        fetch = self._services.fetch_media
        if url is not None and fetch is not None and await self._services.records.posts.needs_media(submission):
            media = MediaSource(data=await self._fetched(fetch, url, ends_at))
            assert media.data is not None
            submission = replace(submission, media_sha256=await self._services.media_store.put(media.data))
        return _Entry(submission, media, caller.respond_async, ends_at)

    async def _fetched(self, fetch: Callable[[str], Awaitable[bytes]], url: str, ends_at: float) -> bytes:
        cap = self._services.settings.max_media_bytes
        try:
            async with asyncio.timeout_at(ends_at - STORE_MARGIN_S):
                data = await fetch(url)
        except TimeoutError:
            raise DeadlineExceeded from None
        if not data:
            raise FetchFailed("The media behind the URL is empty.", param="media_url")
        if len(data) > cap:
            raise TooLarge(f"media_url is larger than {cap} bytes.", param="media_url")
        return data

    async def _on_its_own(self, entry: _Entry) -> Answer | None:
        task = asyncio.create_task(self._take_in(entry))
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)  # a client that leaves does not undo the work

    def _finished(self, task: asyncio.Task[Answer | None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # the waiting request has it; where the client left, the job's row has it

    async def _take_in(self, entry: _Entry) -> Answer | None:
        """Accept the post and judge it; None where another request or worker is judging it."""
        ticket = await whole(self._accept(entry), self._give_back)
        if ticket.verdict is not None:
            return Answer(ticket.verdict, None, ticket.replayed)
        if entry.respond_async:
            self._worker.wake()
            post = entry.submission.post
            return Answer(None, await self._services.records.posts.find(post.post_id, post.revision), ticket.replayed)
        if ticket.lease is None:
            return None
        same = ticket.lease.media_sha256 == entry.submission.media_sha256
        try:
            verdict = await self._judge(ticket.lease, entry.media if same else None, entry.ends_at)
        except LeaseLost:
            return None
        return Answer(verdict, None, replayed=False)

    async def _accept(self, entry: _Entry) -> Ticket:
        store, settings, submission = self._services.media_store, self._services.settings, entry.submission
        while True:
            try:
                ticket = await self._services.records.posts.accept(
                    submission,
                    lease_s=None if entry.respond_async else settings.jobs.lease_s,
                    policy_version=self._services.policy_version,
                    key_ttl_s=settings.idempotency_ttl_s,
                )
                break
            except MediaBeingDeleted:
                if _clock() >= entry.ends_at:
                    raise
                await asyncio.sleep(_LAST_LOOK_S)
            except Conflict:
                if submission.media_sha256 is not None:
                    await self._services.records.garbage.add(submission.media_sha256)
                raise
        data, digest = entry.media.data if entry.media is not None else None, submission.media_sha256
        if data is not None and digest is not None and not await store.exists(digest):
            await store.put(data)  # deleted as unused between put and commit; now it is referred to
        return ticket

    async def _give_back(self, ticket: Ticket) -> None:
        if ticket.lease is not None:
            await self._services.records.jobs.give_back(ticket.lease)

    async def _other_worker(self, post: Post) -> None:
        """Wait while another request or worker has the post. Raises the error of its attempt, or PostErased."""
        pause_s = _FIRST_LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(_LAST_LOOK_S, pause_s * 1.5)
            try:
                state = await self._services.records.posts.find(post.post_id, post.revision)
            except PostNotFound:
                raise PostErased from None
            if state.status in ("failed", "pending") and state.error is not None:
                raise recorded_error(state.error)
            if state.status != "running" or state.lease_expired:
                return

    async def _judge(self, lease: Lease, media: MediaSource | None, ends_at: float) -> Verdict:
        services = self._services
        deadline_s = max(0.05, ends_at - _clock() - STORE_MARGIN_S)
        try:
            async with kept_alive(services.records.jobs, lease, services.settings.jobs.lease_s):
                return await attempt(services, lease, media, deadline_s)
        except asyncio.CancelledError:
            await services.records.jobs.give_back(lease)
            raise
        except (LeaseLost, PostErased):
            raise
        except ParakhError as error:
            await settle(services, lease, error, counts=False)
            raise
        except Exception:
            await settle(services, lease, ParakhError(), counts=False)
            raise


def _clock() -> float:
    return asyncio.get_running_loop().time()


def check_shape(post: Post, media: MediaSource | None, max_caption_chars: int) -> None:
    """What the content type asks for. What the media really is, the decoder finds out."""
    caption = (post.caption or "").strip()
    if len(post.caption or "") > max_caption_chars:
        raise TooLarge(f"caption is longer than {max_caption_chars} characters.", param="caption")
    if post.content_type is ContentType.TEXT:
        if media is not None:
            raise InvalidInput("A post of content_type text has no media.", param="content_type")
        if not caption:
            raise InvalidInput("A post of content_type text needs a caption.", param="caption")
    elif media is None:
        raise MediaRequired(param="media_url")


def fingerprint(post: Post, media_sha256: str | None, media_url: str | None) -> str:
    """The identity of a post's content: the post itself and its media, however that was sent."""
    parts = (post.model_dump_json(), media_sha256 or "", media_url or "")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
