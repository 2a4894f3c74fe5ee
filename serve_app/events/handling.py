"""One event to what is stored of it: the graph is asked, nothing is written yet but the media.

PostCreated   media into the store -> pipeline -> JudgedPost
ClipRecorded  judge of clips -> JudgedClip
PostViewed    as it is -> ViewCount
Refused       as it is -> Refusal
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Protocol

from deployments.runtime.errors import DeadlineExceeded, FetchFailed, ParakhError
from serve_app.events.incoming import ClipRecorded, Incoming, PostCreated, PostViewed, Refused
from serve_app.http.intake import fingerprint
from serve_app.http.services import Moderator
from serve_app.media_store import MediaStore
from serve_app.posts import MediaSource
from serve_app.promise import Promise
from serve_app.records.values import JudgedClip, JudgedPost, Refusal, Submission, ViewCount
from serve_app.streams.errors import StreamsOff
from serve_app.streams.values import Clip, ClipResult

Work = JudgedPost | JudgedClip | ViewCount | Refusal


class ClipModerator(Protocol):
    async def judge(self, clip: Clip, sound: MediaSource, *, deadline_s: float | None = None) -> ClipResult: ...


class EventHandler:
    def __init__(
        self,
        moderator: Moderator,
        clips: ClipModerator | None,
        media_store: MediaStore,
        fetch: Callable[[str], Awaitable[bytes]],
        promise: Promise,
        *,
        indexed: bool = True,
    ) -> None:
        """`indexed`: the index is told of what was judged."""
        self._moderator = moderator
        self._clips = clips
        self._media_store = media_store
        self._fetch = fetch
        self._promise = promise
        self._indexed = indexed

    async def work(self, event: Incoming, deadline_s: float) -> Work:
        """Raises ParakhError: what the graph, the media store or a media's own server had to say."""
        match event:
            case PostCreated():
                return await self._post(event, deadline_s)
            case ClipRecorded():
                if self._clips is None:
                    raise StreamsOff
                return JudgedClip(await self._clips.judge(event.clip, event.sound, deadline_s=deadline_s))
            case PostViewed():
                return event.count
            case Refused():
                return event.refusal

    async def _post(self, event: PostCreated, deadline_s: float) -> JudgedPost:
        post, ends_at = event.post, asyncio.get_running_loop().time() + deadline_s
        try:
            async with asyncio.timeout_at(ends_at):
                submission, media = await self._kept(event)
        except TimeoutError:
            raise DeadlineExceeded from None
        plan = self._promise.plan(post.created_at)
        left_s = max(0.05, ends_at - asyncio.get_running_loop().time())
        judgement = await self._moderator.judge(
            post, media, deadline_s=left_s, wait_for_nodes=plan.wait_for_nodes, without=plan.without
        )
        verdict = judgement.verdict
        if not all(math.isfinite(score) for score in (verdict.nsfw_score, *verdict.category_scores.values())):
            raise ParakhError  # a verdict that JSON cannot hold must not be stored
        self._promise.note(verdict)
        content = judgement.content if self._indexed else None
        return JudgedPost(submission, verdict, content, judgement.copy_of, None if media is None else media.data)

    async def _kept(self, event: PostCreated) -> tuple[Submission, MediaSource | None]:
        """The media in the store, before the verdict refers to it. What is behind a URL is fetched once: what is
        judged is what is kept."""
        media = event.media
        if media is None:
            return Submission(event.post, fingerprint(event.post, None, None)), None
        data = media.data
        if media.url is not None:
            data = await self._fetch(media.url)
        if not data:
            raise FetchFailed("The media behind the URL is empty.", param="media_url")
        digest = await self._media_store.put(data)
        sent = None if media.url is not None else digest
        submission = Submission(event.post, fingerprint(event.post, sent, media.url), digest, media.url)
        return submission, MediaSource(data=data)
