"""What happens at a milestone: the post's scores and its author's history go to the gate, its answer into the records.

    job -> post (none yet: parked) -> history -> the gate -> audit draw for what it skips -> stored, once

Nothing here is lost when the process dies in between: the job stays until its decision is stored. The audit draw is a
keyed hash of post and milestone, so that whoever repeats it draws the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from deployments.review_gate.values import AuthorHistory, GateAction, GateDecision, GateInput
from deployments.runtime.errors import InvalidInput, ParakhError
from serve_app.gate_settings import GatingSettings
from serve_app.records.errors import PostNotFound
from serve_app.records.gate_values import Decided, Draw, GatedPost, GateJob, HistoryAsk, StoredDecision
from serve_app.records.values import ViewCount

log = logging.getLogger(__name__)
REMEMBERED_AUTHORS = 100_000


class GateKeeper(Protocol):
    """The gate's node, or what stands in for it."""

    async def decide_many(self, posts: Sequence[GateInput]) -> Sequence[GateDecision | InvalidInput]:
        """Of each post, in order, its decision or its own refusal. Raises ParakhError: no decision can be had now."""
        ...


class ReviewEverything:
    """Without a calibrated gate every post is seen by a person."""

    async def decide_many(self, posts: Sequence[GateInput]) -> list[GateDecision | InvalidInput]:
        return [_reviewed(post) for post in posts]


class FakeGate:
    """For tests: skips below a threshold of the post's own score; can be told to be slow, to fail, or to refuse."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.asked: list[GateInput] = []
        self.errors: list[Exception] = []  # raised one by one, before anything is answered
        self.refuses: set[str] = set()  # ids of posts
        self.delay_s = 0.0

    async def decide_many(self, posts: Sequence[GateInput]) -> list[GateDecision | InvalidInput]:
        self.asked += posts
        await asyncio.sleep(self.delay_s)
        if self.errors:
            raise self.errors.pop(0)
        return [self._one(post) for post in posts]

    def _one(self, post: GateInput) -> GateDecision | InvalidInput:
        if post.post_id in self.refuses:
            return InvalidInput("refused")
        action: GateAction = "review" if post.nsfw_score >= self.threshold else "skip"
        reason = f"Score {post.nsfw_score:.3g} against {self.threshold:g}."
        return GateDecision(action, post.nsfw_score, self.threshold, "*", reason, "score", "1", "fake")


class GateRecords(Protocol):
    milestones: tuple[int, ...]

    async def note(self, count: ViewCount, milestone: int) -> StoredDecision | None: ...

    async def claim(self, limit: int, busy_s: float) -> list[GateJob]: ...

    async def open_jobs(self, post_id: str, up_to: int) -> list[GateJob]: ...

    async def posts(self, post_ids: Sequence[str]) -> dict[str, GatedPost]: ...

    async def store(self, decided: Sequence[Decided]) -> list[StoredDecision]: ...

    async def retry(self, jobs: Sequence[GateJob], error: str, pause_s: float) -> None: ...

    async def park(self, jobs: Sequence[GateJob]) -> None: ...

    async def salt(self) -> bytes: ...


class Histories(Protocol):
    async def histories(self, asked: Sequence[HistoryAsk]) -> list[AuthorHistory]: ...


class GateObserver(Protocol):
    def decided(self, milestone: int, action: str, audit: bool) -> None: ...

    def failed(self, code: str) -> None: ...

    def recall(self, language: str, estimate: float, lower: float, upper: float) -> None:
        """`language` is `*` for all together."""
        ...

    def waiting(self, jobs: int, oldest_s: float) -> None: ...

    def queue(self, reviews: int, overdue_s: float) -> None: ...


class UnknownMilestone(InvalidInput):
    message = "There is no such milestone."


@dataclass
class AuditSample:
    """Draws from skipped posts. `share` may change; what was drawn is stored with the share of its time."""

    salt: bytes
    share: float

    def draw(self, decision: GateDecision, job: GateJob) -> Draw:
        if decision.action == "review":
            return Draw(False, 1.0)
        digest = hmac.digest(self.salt, f"{job.post_id}\x00{job.milestone}".encode(), hashlib.sha256)
        return Draw(int.from_bytes(digest[:8]) < self.share * 2**64, self.share)


class Gating:
    def __init__(
        self,
        records: GateRecords,
        authors: Histories,
        gate: GateKeeper,
        settings: GatingSettings,
        observer: GateObserver | None = None,
    ) -> None:
        self._records, self._gate, self._settings, self._observer = records, gate, settings, observer
        self._authors = LastKnown(authors, settings)
        self._share = settings.recall.start_share
        self._sample: AuditSample | None = None

    def audit(self, share: float) -> None:
        """From now on draw such a share of what is skipped."""
        self._share = share
        if self._sample is not None:
            self._sample.share = share

    async def decide_now(self, count: ViewCount, milestone: int | None = None) -> StoredDecision:
        """The decision that stands at the milestone, or at the highest one that the count has passed.

        Decides it at once, after those below it. Raises InvalidInput, PostNotFound, NotJudgedYet, and what the gate
        raises: then the worker decides later.
        """
        asked = self._asked(count.views, milestone)
        standing = await self._records.note(count, asked)
        if standing is not None:
            return standing
        jobs = await self._records.open_jobs(count.post_id, asked)
        for decision in await self._decide(jobs, raises=True):
            if decision.milestone == asked:
                return decision
        standing = await self._records.note(count, asked)  # another worker was faster
        if standing is None:
            raise PostNotFound
        return standing

    async def run_once(self) -> int:
        """Decide what is due; how many milestones were claimed."""
        jobs = await self._records.claim(self._settings.batch, self._settings.busy_s)
        if jobs:
            await self._decide(jobs)
        return len(jobs)

    def _asked(self, views: int, milestone: int | None) -> int:
        known = self._records.milestones
        if milestone is not None and milestone not in known:
            raise UnknownMilestone(f"milestone: is one of {', '.join(map(str, known))}.", param="milestone")
        asked = milestone if milestone is not None else max((each for each in known if each <= views), default=known[0])
        if views < asked:
            raise InvalidInput(f"views: {views} are below the milestone of {asked}.", param="views")
        return asked

    async def _decide(self, jobs: Sequence[GateJob], *, raises: bool = False) -> list[StoredDecision]:
        try:
            return await self._decided(jobs, raises)
        except Exception as error:
            if not isinstance(error, ParakhError):
                log.exception("milestones could not be decided; they will be tried again")
            self._failed(error)
            if raises:
                raise
            await self._records.retry(jobs, type(error).__name__, self._pause_s(jobs))
            return []

    async def _decided(self, jobs: Sequence[GateJob], raises: bool) -> list[StoredDecision]:
        posts = await self._records.posts([job.post_id for job in jobs])
        await self._records.park([job for job in jobs if job.post_id not in posts])
        ready = [(_sane(job, posts[job.post_id]), posts[job.post_id]) for job in jobs if job.post_id in posts]
        if not ready:
            return []
        asks = [HistoryAsk(post.author_id, post.post_id, job.reached_at) for job, post in ready]
        histories = await self._authors.read(asks)
        inputs = [_input(job, post, seen) for (job, post), seen in zip(ready, histories, strict=True)]
        answers = await self._gate.decide_many(inputs)
        sample = await self._drawing()
        decided: list[Decided] = []
        for (job, post), history, answer in zip(ready, histories, answers, strict=True):
            if isinstance(answer, GateDecision):
                decided.append(Decided(job, post, history, answer, sample.draw(answer, job)))
                continue
            self._failed(answer)
            if raises:
                raise answer
            log.warning("post %r at %d views: the gate refuses it: %s", job.post_id, job.milestone, answer)
            await self._records.retry([job], str(answer), self._pause_s([job]))
        stored = await self._records.store(decided)
        if self._observer is not None:
            for each in stored:
                self._observer.decided(each.milestone, each.decision.action, each.audit)
        return stored

    async def _drawing(self) -> AuditSample:
        if self._sample is None:
            self._sample = AuditSample(await self._records.salt(), self._share)
        return self._sample

    def _pause_s(self, jobs: Sequence[GateJob]) -> float:
        doublings = min(max(max(job.attempts for job in jobs) - 1, 0), 20)
        return min(self._settings.retry_max_s, self._settings.retry_base_s * float(1 << doublings))

    def _failed(self, error: Exception) -> None:
        if self._observer is not None:
            self._observer.failed(error.code if isinstance(error, ParakhError) else "internal_error")


class LastKnown:
    """Histories as they are; where that takes too long, the last known one of the author, as stale, or none."""

    def __init__(self, authors: Histories, settings: GatingSettings) -> None:
        self._authors, self._settings = authors, settings
        self._known: OrderedDict[str, AuthorHistory] = OrderedDict()

    async def read(self, asks: Sequence[HistoryAsk]) -> list[AuthorHistory]:
        try:
            async with asyncio.timeout(self._settings.history_timeout_s):
                found = await self._authors.histories(asks)
        except TimeoutError:
            log.warning("the histories of %d authors took too long", len(asks))
            return [self._stale(ask) for ask in asks]
        for ask, history in zip(asks, found, strict=True):
            self._known[ask.author_id] = history
            self._known.move_to_end(ask.author_id)
        while len(self._known) > REMEMBERED_AUTHORS:
            self._known.popitem(last=False)
        return found

    def _stale(self, ask: HistoryAsk) -> AuthorHistory:
        known = self._known.get(ask.author_id)
        oldest = ask.as_of - timedelta(seconds=self._settings.history_stale_s)
        if known is None or known.status == "missing" or known.as_of is None or not oldest <= known.as_of <= ask.as_of:
            return AuthorHistory("missing", None, None, self._settings.history_days, ask.as_of)
        return replace(known, status="stale")


def _sane(job: GateJob, post: GatedPost) -> GateJob:
    """No milestone is reached before its post is there, or after now, whatever the clock of who counted said."""
    return replace(job, reached_at=max(post.created_at, min(job.reached_at, datetime.now(UTC))))


def _input(job: GateJob, post: GatedPost, history: AuthorHistory) -> GateInput:
    return GateInput(
        post_id=post.post_id,
        milestone=job.milestone,
        views=job.views,
        nsfw_score=post.nsfw_score,
        category_scores=post.category_scores,
        language=post.language,
        content_type=post.content_type,
        created_at=post.created_at,
        reached_at=job.reached_at,
        history=history,
    )


def _reviewed(post: GateInput) -> GateDecision:
    reason = "Every post is reviewed: no calibrated gate is in force."
    return GateDecision("review", post.nsfw_score, None, "*", reason, "score", "1", "none")
