"""What became of messages: everything of a batch in one transaction, after which their offsets may be committed.

An event that was worked off is known from then on; a dead one is not, so that its replay can work. The locks of a
whole batch are taken at once and in one order, so that two consumers never wait for each other in a circle. A message
that makes the transaction fail is found by trying each alone, and becomes a dead letter.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from serve_app.events.message import Message
from serve_app.gate_settings import QueueSettings
from serve_app.records import dead_letters, judged_posts, leases, outbox
from serve_app.records.bulk import upsert
from serve_app.records.engine import Database, is_fault_of_data
from serve_app.records.event_tables import ConsumedEventRow, StreamErasureRow
from serve_app.records.judged_clips import ClipWriter
from serve_app.records.judged_posts import PostWriter
from serve_app.records.outbox import NewEvent
from serve_app.records.references import FloodLimit
from serve_app.records.tables import ErasureRow
from serve_app.records.values import (
    Concluded,
    Conclusion,
    EventId,
    JudgedClip,
    JudgedPost,
    Refusal,
    Subject,
    ViewCount,
    subject_of,
)
from serve_app.records.view_counts import ViewWriter
from serve_app.streams.state import StreamRule

log = logging.getLogger(__name__)
Keep = Callable[[bytes], Awaitable[str]]  # the media store's `put`: makes bytes durable, returns their SHA-256
UNSTORABLE = "unstorable"


def event_key(event: EventId) -> str:
    return hashlib.sha256(f"{event.source}\x00{event.id}".encode("utf-8", "surrogatepass")).hexdigest()


class EventStore:
    def __init__(
        self,
        database: Database,
        flood: FloodLimit,
        rule: StreamRule,
        milestones: Sequence[int],
        queue: QueueSettings,
    ) -> None:
        self._database, self._flood, self._rule, self._milestones = database, flood, rule, tuple(milestones)
        self._queue = queue

    async def known(self, events: Sequence[EventId]) -> set[EventId]:
        """Those that were worked off: their messages need no work."""
        keys = {event_key(event): event for event in events}
        if not keys:
            return set()
        outcomes = await self._database.read(lambda session: _outcomes(session, keys))
        return {event for key, event in keys.items() if outcomes.get(key, "dead") != "dead"}

    async def conclude(self, conclusions: Sequence[Conclusion], keep: Keep | None = None) -> list[Concluded]:
        """Store all of them in one transaction, and what became of each in their order.

        `keep` takes the value of a dead letter that is too large for the database; without it the database has it.
        Raises RecordsUnavailable or MediaBeingDeleted: nothing or a part is stored, and all may be tried again.
        """
        try:
            return await self._write(conclusions, keep)
        except Exception as error:
            if not is_fault_of_data(error):
                raise
            if len(conclusions) == 1:
                log.warning("a message cannot be stored: %s", type(error).__name__)
                return await self._write([_unstorable(conclusions[0], error)], keep)
        return [(await self.conclude([each], keep))[0] for each in conclusions]

    async def _write(self, conclusions: Sequence[Conclusion], keep: Keep | None) -> list[Concluded]:
        kept: dict[tuple[str, int, int], str] = {}
        while True:
            try:
                return await self._database.write(lambda session: self._conclude(session, conclusions, keep, kept))
            except _NotKept as large:
                assert keep is not None
                kept[large.message.place] = await keep(large.message.value)

    def _conclude(
        self,
        session: Session,
        conclusions: Sequence[Conclusion],
        keep: Keep | None,
        kept: dict[tuple[str, int, int], str],
    ) -> list[Concluded]:
        self._database.lock_all(session, (name for each in conclusions for name in _lock_names(each)))
        batch = _Batch(self._database, session, self._flood, self._rule, self._milestones, self._queue, conclusions)
        outcomes: list[Concluded] = []
        for conclusion in conclusions:
            outcome = batch.add(conclusion)
            if isinstance(outcome, Refusal):
                message = conclusion.message
                digest = kept.get(message.place)
                if keep is not None and digest is None and len(message.value) > dead_letters.MAX_VALUE_BYTES:
                    raise _NotKept(message)
                death = dead_letters.bury(session, message, conclusion.event, outcome, _subjects(conclusion), digest)
                if death is not None:
                    outbox.add_dead_letter(session, *death, outcome.code)
                outcome = "dead"
            outcomes.append(outcome)
        batch.flush()
        return outcomes


class _NotKept(Exception):
    """The value of a dead letter must go to the media store first."""

    def __init__(self, message: Message) -> None:
        super().__init__()
        self.message = message


class _Batch:
    """One transaction: what is known of the batch's events, and the writers for each kind of work."""

    def __init__(
        self,
        database: Database,
        session: Session,
        flood: FloodLimit,
        rule: StreamRule,
        milestones: Sequence[int],
        queue: QueueSettings,
        conclusions: Sequence[Conclusion],
    ) -> None:
        works = [conclusion.work for conclusion in conclusions]
        posts = [work for work in works if isinstance(work, JudgedPost)]
        clips = [work.result for work in works if isinstance(work, JudgedClip)]
        counts = [work for work in works if isinstance(work, ViewCount)]
        refused = {subject for each in conclusions if isinstance(each.work, Refusal) for subject in _subjects(each)}
        ids = {post.submission.post.post_id for post in posts} | {count.post_id for count in counts}
        ids |= {subject.id for subject in refused if subject.kind == "post"}
        keys = [event_key(conclusion.event) for conclusion in conclusions if conclusion.event is not None]
        erased = set(session.scalars(select(ErasureRow.post_id).where(ErasureRow.post_id.in_(ids)))) if ids else set()
        self._session = session
        self._erased = {subject for subject in refused if subject.kind == "post" and subject.id in erased}
        self._erased |= _erased_streams(session, refused)
        self._outcomes = _outcomes(session, keys)
        self._consumed: dict[str, dict[str, Any]] = {}
        self._events: list[NewEvent] = []
        self._posts = PostWriter(database, session, flood, posts, erased, self._events, queue)
        self._clips = ClipWriter(session, rule, clips, self._events)
        self._counts = ViewWriter(session, milestones, counts, erased, self._events)

    def add(self, conclusion: Conclusion) -> Concluded | Refusal:
        key = None if conclusion.event is None else event_key(conclusion.event)
        if key is not None and self._outcomes.get(key, "dead") != "dead":
            dead_letters.settle(self._session, conclusion.message)
            return "duplicate"
        outcome = self._work(conclusion)
        if outcome == "erased":
            dead_letters.drop(self._session, conclusion.message)
        elif not isinstance(outcome, Refusal):
            dead_letters.settle(self._session, conclusion.message)
        if key is not None:
            self._note(key, conclusion.message.topic, "dead" if isinstance(outcome, Refusal) else outcome)
        return outcome

    def flush(self) -> None:
        for writer in (self._posts, self._clips, self._counts):
            writer.flush()
        outbox.add(self._session, *self._events)
        if rows := [self._consumed[key] for key in sorted(self._consumed)]:
            statement = upsert(self._session, ConsumedEventRow)
            moved = {name: statement.excluded[name] for name in ("topic", "outcome", "at")}
            self._session.execute(statement.on_conflict_do_update(index_elements=["key"], set_=moved), rows)

    def _work(self, conclusion: Conclusion) -> Concluded | Refusal:
        match conclusion.work:
            case JudgedPost() as work:
                return self._posts.add(work)
            case JudgedClip(result):
                return self._clips.add(result)
            case ViewCount() as count:
                return self._counts.add(count)
            case Refusal() as refusal:
                return refusal if self._erased.isdisjoint(_subjects(conclusion)) else "erased"

    def _note(self, key: str, topic: str, outcome: Concluded) -> None:
        self._outcomes[key] = outcome
        row = {"key": key, "topic": dead_letters.clean(topic, 255), "outcome": outcome, "at": leases.now()}
        self._consumed[key] = row


def _outcomes(session: Session, keys: Sequence[str] | dict[str, EventId]) -> dict[str, str]:
    if not keys:
        return {}
    query = select(ConsumedEventRow.key, ConsumedEventRow.outcome).where(ConsumedEventRow.key.in_(list(keys)))
    return dict(session.execute(query).all())


def _erased_streams(session: Session, subjects: set[Subject]) -> set[Subject]:
    ids = {subject.id for subject in subjects if subject.kind == "stream"}
    if not ids:
        return set()
    query = select(StreamErasureRow.stream_id).where(StreamErasureRow.stream_id.in_(ids))
    return {Subject("stream", id_) for id_ in session.scalars(query)}


def _lock_names(conclusion: Conclusion) -> Iterator[tuple[str, str]]:
    if conclusion.event is not None:
        yield "event", event_key(conclusion.event)
    yield from dead_letters.lock_names(conclusion.message)
    match conclusion.work:
        case JudgedPost() as judged:
            yield from judged_posts.lock_names(judged)
        case JudgedClip(result):
            yield "stream", result.stream_id
        case ViewCount(post_id):
            yield "post", post_id
        case Refusal():  # or an erasure that runs beside it would miss its letter
            for subject in _subjects(conclusion):
                yield subject.kind, subject.id


def _subjects(conclusion: Conclusion) -> list[Subject]:
    """What the message is about, or may be."""
    return dead_letters.subjects(conclusion.message, conclusion.subject or _worked_on(conclusion))


def _worked_on(conclusion: Conclusion) -> Subject | None:
    match conclusion.work:
        case JudgedPost(submission):
            return subject_of("post", submission.post.post_id)
        case JudgedClip(result):
            return subject_of("stream", result.stream_id)
        case ViewCount(post_id):
            return subject_of("post", post_id)
    return None


def _unstorable(conclusion: Conclusion, error: Exception) -> Conclusion:
    cause = str(getattr(error, "orig", None) or error).partition("\n")[0][:300]
    subject = conclusion.subject or _worked_on(conclusion)
    refusal = Refusal(UNSTORABLE, f"The database cannot hold it: {cause}")
    return replace(conclusion, work=refusal, subject=subject)
