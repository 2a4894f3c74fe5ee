"""Clips that were judged, many in one transaction: each new one moves its stream's state, and is told downstream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from serve_app.records import leases, outbox
from serve_app.records.bulk import insert_all, upsert
from serve_app.records.errors import ClipConflict
from serve_app.records.event_tables import ClipRow, StreamErasureRow, StreamRow
from serve_app.records.outbox import NewEvent
from serve_app.records.values import Concluded, Refusal
from serve_app.streams.state import StreamRule
from serve_app.streams.values import ClipResult, StateChange, StreamState


class ClipWriter:
    """For one transaction, which holds the lock on each clip's stream."""

    def __init__(self, session: Session, rule: StreamRule, clips: Sequence[ClipResult], events: list[NewEvent]) -> None:
        self._session, self._rule, self._events = session, rule, events
        self._erased: set[str] = set()
        self._sounds: dict[tuple[str, int], str] = {}
        self._rows: list[dict[str, Any]] = []
        self._changed: dict[str, StreamState] = {}
        self.states: dict[str, StreamState] = {}
        if clips:
            self._read({clip.stream_id for clip in clips}, {(clip.stream_id, clip.start_ms) for clip in clips})

    def add(self, clip: ClipResult) -> Concluded | Refusal:
        if clip.stream_id in self._erased:
            return "erased"
        identity = clip.stream_id, clip.start_ms
        known = self._sounds.get(identity)
        if known is not None:
            same = known == clip.sound_sha256
            return "duplicate" if same else Refusal(ClipConflict.code, ClipConflict.message)
        state, change = self._rule.add(self.states.get(clip.stream_id), clip)
        self.states[clip.stream_id] = self._changed[clip.stream_id] = state
        self._sounds[identity] = clip.sound_sha256
        self._rows.append(_values(clip))
        self._events.append(_judged(clip))
        if change is not None:
            self._events.append(_changed(change, clip))
        return "done"

    def flush(self) -> None:
        insert_all(self._session, ClipRow, self._rows)
        at = leases.now()
        rows = [
            {
                "stream_id": state.stream_id,
                "state": state.model_dump_json(),
                "action": state.action,
                "language": state.language,
                "created_at": at,
                "updated_at": at,
            }
            for state in self._changed.values()
        ]
        if rows:
            statement = upsert(self._session, StreamRow)
            moved = {name: statement.excluded[name] for name in ("state", "action", "language", "updated_at")}
            self._session.execute(statement.on_conflict_do_update(index_elements=["stream_id"], set_=moved), rows)

    def _read(self, streams: set[str], identities: set[tuple[str, int]]) -> None:
        erased = select(StreamErasureRow.stream_id).where(StreamErasureRow.stream_id.in_(streams))
        self._erased = set(self._session.scalars(erased))
        states = select(StreamRow.state).where(StreamRow.stream_id.in_(streams))
        for body in self._session.scalars(states):
            state = StreamState.model_validate_json(body)
            self.states[state.stream_id] = state
        known = select(ClipRow.stream_id, ClipRow.start_ms, ClipRow.sound_sha256).where(
            tuple_(ClipRow.stream_id, ClipRow.start_ms).in_(sorted(identities))
        )
        for stream_id, start_ms, sound in self._session.execute(known):
            self._sounds[stream_id, start_ms] = sound


def _values(clip: ClipResult) -> dict[str, Any]:
    return {
        "stream_id": clip.stream_id,
        "start_ms": clip.start_ms,
        "created_at": clip.created_at,
        "decided_at": clip.decided_at,
        "nsfw_score": clip.nsfw_score,
        "sound_sha256": clip.sound_sha256,
        "skipped": clip.skipped,
        "body": clip.model_dump_json(),
    }


def _judged(clip: ClipResult) -> NewEvent:
    payload = clip.model_dump(mode="json", exclude={"timings_s"})
    return NewEvent(outbox.CLIPS, outbox.CLIP_JUDGED, clip.stream_id, payload)


def _changed(change: StateChange, clip: ClipResult) -> NewEvent:
    """The windows that made the change are its evidence."""
    type_ = outbox.STREAM_FLAGGED if change.kind == "flagged" else outbox.STREAM_CLEARED
    payload = change.model_dump(mode="json") | {"decided_at": clip.decided_at.isoformat()}
    return NewEvent(outbox.STREAMS, type_, change.stream_id, payload)
