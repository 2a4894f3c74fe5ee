"""The reckoning: what was sent against what the database holds, the topics tell and the group has committed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import ConsumerRecord
from sqlalchemy import select, text

from benchmarks.delivery.topics import behind, read_topic
from benchmarks.delivery.traffic import CLIPS, POSTS, VIEWS, Sent, clip_subject
from serve_app.records.engine import Database
from serve_app.records.event_tables import DeadLetterRow
from serve_app.records.view_counts import MILESTONES

VERDICTS, JUDGED_CLIPS, MILESTONE_EVENTS = "parakh.verdicts", "parakh.clips.judged", "parakh.milestones"
DEAD_LETTERS = "parakh.dead-letters"
OTHERS = ("parakh.streams", "parakh.erasures", "parakh.references")


@dataclass
class Ledger:
    """Counts of everything that must be 0, and of what is told twice, which may be."""

    lost: int = 0  # events whose outcome is not in the database: a verdict, clip, view count or dead letter
    duplicated: int = 0  # second verdicts, clips, or events of another id about the same
    unexpected: int = 0  # outcomes, events and letters of nothing that was sent
    dead_letters_missing: int = 0
    downstream_missing: int = 0
    downstream_unstable: int = 0  # one id with two contents
    downstream_repeated: int = 0  # the same event once more: allowed
    offsets_behind: int = 0
    outbox_waiting: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        broken = (self.lost, self.duplicated, self.unexpected, self.dead_letters_missing, self.downstream_missing)
        return not any((*broken, self.downstream_unstable, self.offsets_behind, self.outbox_waiting))

    def note(self, what: str, names: Iterable[object]) -> int:
        found = sorted(map(str, names))
        if found:
            self.notes.append(f"{what}: {len(found)}, for instance {', '.join(found[:5])}")
        return len(found)


async def reckon(sent: Sequence[Sent], database: Database, broker: str, group: str) -> Ledger:
    ledger = Ledger()
    await _stored(ledger, sent, database)
    topics = (VERDICTS, JUDGED_CLIPS, MILESTONE_EVENTS, *OTHERS, DEAD_LETTERS)
    told = {topic: await read_topic(broker, topic) for topic in topics}
    _told(ledger, VERDICTS, told[VERDICTS], _subjects(sent, "verdict"))
    _told(ledger, JUDGED_CLIPS, told[JUDGED_CLIPS], _subjects(sent, "clip"))
    passed = (f"{s.subject}@{m}" for s in sent if s.fate == "views" for m in MILESTONES if m <= s.views)
    _told(ledger, MILESTONE_EVENTS, told[MILESTONE_EVENTS], set(passed))
    for topic in OTHERS:
        _stable(ledger, topic, [(_event(record)["id"], record.value) for record in told[topic]])
    _dead(ledger, told[DEAD_LETTERS], {s.record.value for s in sent if s.fate == "dead"})
    not_committed = await behind(broker, group, (POSTS, CLIPS, VIEWS))
    ledger.note("not committed", (f"{place} by {count}" for place, count in not_committed.items()))
    ledger.offsets_behind = sum(not_committed.values())
    return ledger


def _subjects(sent: Iterable[Sent], fate: str) -> set[str]:
    return {each.subject for each in sent if each.fate == fate}


async def _stored(ledger: Ledger, sent: Sequence[Sent], database: Database) -> None:
    queries = {
        "verdict": "SELECT post_id FROM verdicts",
        "clip": "SELECT stream_id || '@' || start_ms FROM clips",
        "views": "SELECT post_id || '@' || views FROM view_counts",
        "waiting": "SELECT event_id FROM outbox WHERE published_at IS NULL",
    }
    rows = await database.read(
        lambda session: {name: session.scalars(text(query)).all() for name, query in queries.items()}
    )
    expected = {fate: _subjects(sent, fate) for fate in ("verdict", "clip")}
    expected["views"] = {f"{each.subject}@{each.views}" for each in sent if each.fate == "views"}
    expected["letter"] = {hashlib.sha256(each.record.value).hexdigest() for each in sent if each.fate == "dead"}
    letters = select(DeadLetterRow.value, DeadLetterRow.value_sha256)
    found = await database.read(lambda session: session.execute(letters).all())
    rows["letter"] = [digest or hashlib.sha256(value or b"").hexdigest() for value, digest in found]
    for fate, wanted in expected.items():
        counted = Counter(rows[fate])
        ledger.lost += ledger.note(f"lost ({fate})", wanted - counted.keys())
        ledger.duplicated += ledger.note(f"stored twice ({fate})", (n for n, count in counted.items() if count > 1))
        ledger.unexpected += ledger.note(f"stored, never sent ({fate})", counted.keys() - wanted)
    ledger.outbox_waiting = ledger.note("still in the outbox", rows["waiting"])


def _told(ledger: Ledger, topic: str, records: Sequence[ConsumerRecord], wanted: set[str]) -> None:
    """Every subject by events of one id; every id with one content."""
    ids: defaultdict[str, set[str]] = defaultdict(set)
    events = []
    for record in records:
        event = _event(record)
        ids[_subject(topic, event)].add(event["id"])
        events.append((event["id"], record.value))
    ledger.downstream_missing += ledger.note(f"not told ({topic})", wanted - ids.keys())
    ledger.unexpected += ledger.note(f"told, never sent ({topic})", ids.keys() - wanted)
    ledger.duplicated += ledger.note(f"told as two events ({topic})", (s for s, found in ids.items() if len(found) > 1))
    _stable(ledger, topic, events)


def _subject(topic: str, event: dict[str, Any]) -> str:
    data = event["data"]
    if topic == JUDGED_CLIPS:
        return clip_subject(data["stream_id"], data["start_s"])
    return str(data["post_id"]) if topic == VERDICTS else f"{data['post_id']}@{data['milestone']}"


def _stable(ledger: Ledger, topic: str, events: Sequence[tuple[str, bytes]]) -> None:
    contents: defaultdict[str, set[bytes]] = defaultdict(set)
    for id_, value in events:
        contents[id_].add(value)
    ledger.downstream_unstable += ledger.note(f"one id, two contents ({topic})", _several(contents))
    ledger.downstream_repeated += len(events) - len(contents)


def _several(contents: dict[str, set[bytes]]) -> list[str]:
    return [id_ for id_, found in contents.items() if len(found) > 1]


def _dead(ledger: Ledger, records: Sequence[ConsumerRecord], poison: set[bytes]) -> None:
    """Original bytes, under one letter's id."""
    letters = [(dict(record.headers)["parakh-dead-letter-id"].decode(), record.value) for record in records]
    ids: defaultdict[bytes, set[str]] = defaultdict(set)
    for id_, value in letters:
        ids[value].add(id_)
    ledger.dead_letters_missing = ledger.note("no dead letter", (value[:200] for value in poison - ids.keys()))
    ledger.unexpected += ledger.note("dead, though good", (value[:200] for value in ids.keys() - poison))
    ledger.duplicated += ledger.note("two dead letters", (v[:60] for v, found in ids.items() if len(found) > 1))
    _stable(ledger, DEAD_LETTERS, letters)


def _event(record: ConsumerRecord) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(record.value)
    return event
