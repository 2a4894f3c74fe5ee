"""How a post is taken in: media into the store, post and job into the records, then a verdict now or later.

In that order, so that what was acknowledged is never lost: a crash before the commit leaves at most an unused file,
a crash after it leaves a job that another worker finishes. Identical posts at the same time are judged once; the
others wait for that verdict.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from deployments.runtime.errors import InvalidInput, ParakhError, TooLarge
from deployments.runtime.values import ContentType
from serve_app.http.errors import MediaRequired, error_object, recorded_error
from serve_app.http.services import Services
from serve_app.jobs_worker import JobWorker, attempt
from serve_app.posts import MediaSource, Post, Verdict
from serve_app.records.errors import Conflict, LeaseLost
from serve_app.records.values import Lease, PostState, Submission, Ticket

LEASE_MARGIN_S = 10.0  # beyond the request's deadline, for storing
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


class Intake:
    def __init__(self, services: Services, worker: JobWorker) -> None:
        self._services = services
        self._worker = worker
        self._running: set[asyncio.Task[Verdict]] = set()

    async def submit(self, post: Post, media: MediaSource | None, caller: Caller, time_left_s: float) -> Answer:
        """Raises InvalidInput, TooLarge, Conflict, or what the moderator raised."""
        check_shape(post, media, self._services.settings.max_caption_chars)
        ticket = await self._accept(post, media, caller)
        if ticket.state == "decided":
            return Answer(ticket.verdict, None, ticket.replayed)
        if caller.respond_async:
            self._worker.wake()
            return await self._later(post, ticket)
        ends_at = asyncio.get_running_loop().time() + time_left_s
        while ticket.lease is None:
            ticket = await self._other_worker(post, media, caller)
            if ticket.verdict is not None:
                return Answer(ticket.verdict, None, replayed=True)
        deadline_s = max(0.05, ends_at - asyncio.get_running_loop().time() - STORE_MARGIN_S)
        return Answer(await self._judge(ticket.lease, media, deadline_s), None, replayed=False)

    async def drain(self) -> None:
        """Wait for judgements whose client has left."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _accept(self, post: Post, media: MediaSource | None, caller: Caller) -> Ticket:
        store, settings = self._services.media_store, self._services.settings
        digest = await store.put(media.data) if media is not None and media.data is not None else None
        submission = Submission(
            post=post,
            fingerprint=fingerprint(post, digest, media.url if media else None),
            media_sha256=digest,
            media_url=media.url if media else None,
            owner=caller.owner,
            idempotency_key=caller.idempotency_key,
        )
        try:
            ticket = await self._services.records.posts.accept(
                submission,
                lease_s=None if caller.respond_async else settings.request_timeout_s + LEASE_MARGIN_S,
                policy_version=self._services.policy_version,
                key_ttl_s=settings.idempotency_ttl_s,
            )
        except Conflict:
            if digest is not None:
                await self._services.records.erasures.discard(digest)
            raise
        if digest is not None and media is not None and media.data is not None and not await store.exists(digest):
            await store.put(media.data)  # erased with another post between put and commit; now it is referred to
        return ticket

    async def _later(self, post: Post, ticket: Ticket) -> Answer:
        state = await self._services.records.posts.find(post.post_id, post.revision)
        return Answer(None, state, ticket.replayed)

    async def _other_worker(self, post: Post, media: MediaSource | None, caller: Caller) -> Ticket:
        """Wait while another request or worker has the post; ends with its verdict, its error, or the lease."""
        pause_s = _FIRST_LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(_LAST_LOOK_S, pause_s * 1.5)
            state = await self._services.records.posts.find(post.post_id, post.revision)
            if state.status == "failed" and state.error is not None:
                raise recorded_error(state.error)
            if state.status != "running" or state.lease_expired:
                return await self._accept(post, media, Caller(caller.owner, None, respond_async=False))

    async def _judge(self, lease: Lease, media: MediaSource | None, deadline_s: float) -> Verdict:
        task = asyncio.create_task(self._judge_and_settle(lease, media, deadline_s))
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)  # a client that leaves does not undo the work

    def _finished(self, task: asyncio.Task[Verdict]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # the waiting request has it; where the client left, the job's row has it

    async def _judge_and_settle(self, lease: Lease, media: MediaSource | None, deadline_s: float) -> Verdict:
        jobs = self._services.records.jobs
        try:
            return await attempt(self._services, lease, media, deadline_s)
        except asyncio.CancelledError:
            await jobs.retry(lease, None)
            raise
        except LeaseLost:
            raise
        except ParakhError as error:
            await jobs.fail(lease, error_object(error))
            raise
        except Exception:
            await jobs.fail(lease, error_object(ParakhError()))
            raise


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
