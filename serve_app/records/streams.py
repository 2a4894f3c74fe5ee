"""Streams: what their clips add up to, their clips, and their erasure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from serve_app.records import audit, dead_letters, leases, outbox
from serve_app.records.engine import Database
from serve_app.records.errors import ClipConflict, ClipNotFound, StreamErased, StreamNotFound
from serve_app.records.event_tables import ClipRow, StreamErasureRow, StreamRow
from serve_app.records.judged_clips import ClipWriter
from serve_app.records.outbox import NewEvent
from serve_app.records.values import Refusal, Subject
from serve_app.streams.state import StreamRule
from serve_app.streams.values import Action, ClipResult, StreamState


class StreamStore:
    def __init__(self, database: Database, rule: StreamRule) -> None:
        self._database, self._rule = database, rule

    async def add(self, result: ClipResult) -> tuple[ClipResult, StreamState, bool]:
        """The clip that stands, its stream's state, and whether the clip had been there before.

        Raises ClipConflict for other sound, StreamErased.
        """

        def work(session: Session) -> tuple[ClipResult, StreamState, bool]:
            self._database.lock(session, "stream", result.stream_id)
            events: list[NewEvent] = []
            clips = ClipWriter(session, self._rule, [result], events)
            outcome = clips.add(result)
            if isinstance(outcome, Refusal):
                raise ClipConflict
            if outcome == "erased":
                raise StreamErased
            clips.flush()
            outbox.add(session, *events)
            state = clips.states[result.stream_id]
            if outcome == "duplicate":
                return _find(session, result.stream_id, result.start_ms) or result, state, True
            return result, state, False

        return await self._database.write(work)

    async def state(self, stream_id: str) -> StreamState:
        """Raises StreamNotFound."""

        def work(session: Session) -> StreamState:
            row = session.get(StreamRow, stream_id)
            if row is None:
                raise StreamNotFound
            return StreamState.model_validate_json(row.state)

        return await self._database.read(work)

    async def with_action(self, actions: Sequence[Action], limit: int = 100) -> list[StreamState]:
        """Streams whose action is one of these, last changed first."""
        query = select(StreamRow.state).where(StreamRow.action.in_(actions))
        newest = query.order_by(StreamRow.updated_at.desc()).limit(limit)
        return await self._database.read(
            lambda session: [StreamState.model_validate_json(state) for state in session.scalars(newest)]
        )

    async def clips(self, stream_id: str, limit: int = 100, before_start_ms: int | None = None) -> list[ClipResult]:
        """Latest in the stream first. A stream that is not known has none."""
        query = select(ClipRow.body).where(ClipRow.stream_id == stream_id)
        if before_start_ms is not None:
            query = query.where(ClipRow.start_ms < before_start_ms)
        latest = query.order_by(ClipRow.start_ms.desc()).limit(limit)
        return await self._database.read(lambda session: [_clip(body) for body in session.scalars(latest)])

    async def highest(self, since: datetime, limit: int = 100) -> list[ClipResult]:
        """Of all streams, the clips with the highest scores since then."""
        query = (
            select(ClipRow.body)
            .where(ClipRow.nsfw_score.is_not(None), ClipRow.decided_at >= since)
            .order_by(ClipRow.nsfw_score.desc(), ClipRow.decided_at.desc())
            .limit(limit)
        )
        return await self._database.read(lambda session: [_clip(body) for body in session.scalars(query)])

    async def find_clip(self, stream_id: str, start_ms: int) -> ClipResult:
        """Raises ClipNotFound."""
        found = await self._database.read(lambda session: _find(session, stream_id, start_ms))
        if found is None:
            raise ClipNotFound
        return found

    async def erase(self, stream_id: str, actor: str) -> None:
        """Its clips, its state, what was told of them, and dead letters about it; the tombstone and the line in the
        audit stay. Idempotent. A dead letter alone is enough to erase. Raises StreamNotFound.
        """

        def work(session: Session) -> None:
            self._database.lock(session, "stream", stream_id)
            letters = dead_letters.forget(session, Subject("stream", stream_id))
            if session.get(StreamErasureRow, stream_id) is not None:
                return
            if session.get(StreamRow, stream_id) is None and not letters:
                raise StreamNotFound
            session.execute(delete(ClipRow).where(ClipRow.stream_id == stream_id))
            session.execute(delete(StreamRow).where(StreamRow.stream_id == stream_id))
            outbox.forget(session, [stream_id], outbox.STREAMS, outbox.CLIPS)
            at = leases.now()
            session.add(StreamErasureRow(stream_id=stream_id, erased_at=at))
            told = {"stream_id": stream_id, "erased_at": at.isoformat()}
            outbox.add(session, NewEvent(outbox.ERASURES, outbox.STREAM_ERASED, stream_id, told))
            audit.add(session, actor, "stream.erase", stream_id)

        await self._database.write(work)


def _find(session: Session, stream_id: str, start_ms: int) -> ClipResult | None:
    row = session.get(ClipRow, (stream_id, start_ms))
    return None if row is None else _clip(row.body)


def _clip(body: str) -> ClipResult:
    return ClipResult.model_validate_json(body)
