"""Messages that cannot be worked off: kept as they came, published to the dead-letter topic, replayed on demand.

A replay brings the original bytes back under a header that names the letter and counts the attempts. Dead again, it is
the same letter with one attempt more; worked off, the letter counts as replayed. A message that is merely delivered
again changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from serve_app.events.message import Message
from serve_app.records import garbage, leases
from serve_app.records.engine import Database
from serve_app.records.errors import DeadLetterNotFound
from serve_app.records.event_tables import DeadLetterRow
from serve_app.records.tables import OutboxRow
from serve_app.records.values import DeadLetter, EventId, Refusal, Subject, subject_of

HEADER = "parakh-dead-letter"
MAX_VALUE_BYTES = 256 * 1024  # of a value in the database: a page of unpublished ones must fit into memory
MAX_REASON = 4000
_NAMESPACE = uuid.UUID("5f0f3c0e-6d1c-5d6e-9a57-4b1f6c3f7a10")
_REPLAY = re.compile(rb"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12});([1-9][0-9]{0,8})")


def letter_id(message: Message) -> str:
    """Stable for a message delivered again; the value counts too, as a topic made anew begins again at offset 0."""
    digest = hashlib.sha256(message.value).hexdigest()
    return str(uuid.uuid5(_NAMESPACE, f"{message.topic}/{message.partition}/{message.offset}/{digest}"))


def replay_headers(letter: DeadLetter) -> dict[str, bytes]:
    """What a replayed message carries, beside its own headers."""
    return {**letter.headers, HEADER: f"{letter.id};{letter.attempts + 1}".encode()}


def replay_of(message: Message) -> tuple[str, int] | None:
    """The letter this message brings back, and which attempt this is."""
    found = _REPLAY.fullmatch(message.headers.get(HEADER, b""))
    return None if found is None else (found[1].decode(), int(found[2]))


def clean(text: str, length: int) -> str:
    """What both databases take: no NUL and no half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")[:length]


def lock_names(message: Message) -> list[tuple[str, str]]:
    return [("letter", id_) for id_ in _ids(message)]


def subjects(message: Message, told: Subject | None) -> list[Subject]:
    """What the message may be about: where nothing is told, the post and the stream that its key may name."""
    if told is not None:
        return [told]
    key = (message.key or b"").decode("utf-8", "replace")
    named = subject_of("post", key), subject_of("stream", key)
    return [subject for subject in named if subject is not None]


def bury(
    session: Session,
    message: Message,
    event: EventId | None,
    refusal: Refusal,
    subjects: Sequence[Subject],
    value_sha256: str | None,
) -> tuple[str, int] | None:
    """Joins the caller's transaction, which holds the locks of `lock_names`.

    Returns the letter's id and the number of this attempt, which the outbox must tell; None where it is known.
    """
    row, attempt = _letter(session, message)
    if row is not None and attempt <= row.attempts:
        return None
    if row is None:
        row = DeadLetterRow(id=letter_id(message), **_content(message, value_sha256))
        session.add(row)
        attempt = 0
    row.subject = _column(subjects)
    row.code, row.reason = clean(refusal.code, 64), clean(refusal.reason, MAX_REASON)
    row.event_source = None if event is None else clean(event.source, MAX_REASON)
    row.event_id = None if event is None else clean(event.id, MAX_REASON)
    row.at, row.attempts, row.replayed_at = leases.now(), attempt, None
    return row.id, attempt


def settle(session: Session, message: Message) -> None:
    """A message that was worked off: where it is a replay, its letter needs no other one."""
    replay = replay_of(message)
    if replay is not None:
        letter = (DeadLetterRow.id == replay[0]) & (DeadLetterRow.topic == message.topic)
        session.execute(update(DeadLetterRow).where(letter, _waits()).values(replayed_at=leases.now()))


def drop(session: Session, message: Message) -> None:
    """A message about what is erased by now: no letter of it is kept."""
    ours = DeadLetterRow.id.in_(_ids(message)) & (DeadLetterRow.topic == message.topic)
    _remove(session, ours)


def forget(session: Session, subject: Subject) -> int:
    """Erasure: what was said about the post or stream and could not be worked off, and its way out. How many went."""
    names = [f"{subject.kind}:{subject.id}", f"any:{subject.id}"]
    return _remove(session, DeadLetterRow.subject.in_(names))


def remove(session: Session, ids: Sequence[str], digests: Sequence[str | None]) -> None:
    if ids:
        session.execute(delete(OutboxRow).where(OutboxRow.key.in_(ids), OutboxRow.dead_letter_id.is_not(None)))
        session.execute(delete(DeadLetterRow).where(DeadLetterRow.id.in_(ids)))
        garbage.add(session, *digests)


class DeadLetterStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self,
        *,
        code: str | None = None,
        topic: str | None = None,
        since: datetime | None = None,
        replayed: bool | None = None,
        limit: int = 100,
    ) -> list[DeadLetter]:
        """Newest first. `replayed` None: whether or not."""
        wanted: list[ColumnElement[bool]] = []
        if code is not None:
            wanted.append(DeadLetterRow.code == code)
        if topic is not None:
            wanted.append(DeadLetterRow.topic == topic)
        if since is not None:
            wanted.append(DeadLetterRow.at >= since)
        if replayed is not None:
            wanted.append(DeadLetterRow.replayed_at.is_not(None) if replayed else _waits())
        query = select(DeadLetterRow).where(*wanted).order_by(DeadLetterRow.at.desc(), DeadLetterRow.id).limit(limit)
        return await self._database.read(lambda session: [letter_of(row) for row in session.scalars(query)])

    async def waiting_after(
        self, last: DeadLetter | None, *, code: str | None, topic: str | None, since: datetime | None, limit: int
    ) -> Sequence[DeadLetter]:
        """Not replayed yet, oldest first; those that follow `last`."""
        where = DeadLetterRow
        given = ((where.code, code), (where.topic, topic))
        wanted = [_waits(), *(column == value for column, value in given if value is not None)]
        if since is not None:
            wanted.append(where.at >= since)
        if last is not None:
            wanted.append((where.at > last.at) | ((where.at == last.at) & (where.id > last.id)))
        query = select(where).where(*wanted).order_by(where.at, where.id).limit(limit)
        return await self._database.read(lambda session: [letter_of(row) for row in session.scalars(query)])

    async def get(self, id_: str) -> DeadLetter:
        """Raises DeadLetterNotFound."""

        def work(session: Session) -> DeadLetter:
            row = session.get(DeadLetterRow, id_)
            if row is None:
                raise DeadLetterNotFound
            return letter_of(row)

        return await self._database.read(work)

    async def mark_replayed(self, letters: Sequence[DeadLetter]) -> None:
        """They were sent again as they were read. One that is dead again by now stays a dead one."""

        def work(session: Session) -> None:
            self._database.lock_all(session, [("letter", letter.id) for letter in letters])
            for letter in letters:
                same = (DeadLetterRow.id == letter.id) & (DeadLetterRow.attempts == letter.attempts)
                session.execute(update(DeadLetterRow).where(same).values(replayed_at=leases.now()))

        if letters:
            await self._database.write(work)

    async def waiting(self) -> Mapping[str, int]:
        """How many were not replayed yet, by code: for gauges."""
        query = select(DeadLetterRow.code, func.count()).where(_waits()).group_by(DeadLetterRow.code)
        return await self._database.read(lambda session: dict(session.execute(query).all()))


def letter_of(row: DeadLetterRow) -> DeadLetter:
    event = None if row.event_id is None else EventId(row.event_source or "", row.event_id)
    return DeadLetter(
        id=row.id,
        topic=row.topic,
        partition=row.partition,
        offset=row.offset,
        key=row.key,
        headers={name: base64.b64decode(value) for name, value in json.loads(row.headers).items()},
        value=row.value,
        value_sha256=row.value_sha256,
        size=row.size,
        code=row.code,
        reason=row.reason,
        event=event,
        at=row.at,
        attempts=row.attempts,
        replayed_at=row.replayed_at,
    )


def _letter(session: Session, message: Message) -> tuple[DeadLetterRow | None, int]:
    """The letter of this message, and which attempt on it this is: 0 the first time."""
    replay = replay_of(message)
    if replay is not None:
        row = session.get(DeadLetterRow, replay[0], with_for_update=True)
        if row is not None and row.topic == message.topic:
            return row, replay[1]
    return session.get(DeadLetterRow, letter_id(message), with_for_update=True), 0


def _content(message: Message, value_sha256: str | None) -> dict[str, Any]:
    headers = {name: base64.b64encode(value).decode() for name, value in message.headers.items() if name != HEADER}
    return {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "key": message.key,
        "headers": json.dumps(headers),
        "value": message.value if value_sha256 is None else None,
        "value_sha256": value_sha256,
        "size": len(message.value),
    }


def _ids(message: Message) -> list[str]:
    replay = replay_of(message)
    return [letter_id(message)] if replay is None else [letter_id(message), replay[0]]


def _column(subjects: Sequence[Subject]) -> str | None:
    if not subjects:
        return None
    return f"{subjects[0].kind if len(subjects) == 1 else 'any'}:{subjects[0].id}"


def _waits() -> ColumnElement[bool]:
    return DeadLetterRow.replayed_at.is_(None)


def _remove(session: Session, which: ColumnElement[bool]) -> int:
    rows = session.execute(select(DeadLetterRow.id, DeadLetterRow.value_sha256).where(which)).all()
    remove(session, [row.id for row in rows], [row.value_sha256 for row in rows])
    return len(rows)
