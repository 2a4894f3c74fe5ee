"""How often posts were seen: the highest count stands, and each milestone it passes is told once and is for the gate
to decide.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from serve_app.records import gate_jobs, outbox
from serve_app.records.bulk import upsert
from serve_app.records.event_tables import ViewCountRow
from serve_app.records.outbox import NewEvent
from serve_app.records.values import Concluded, ViewCount

MILESTONES = (1000, 2000)


class ViewWriter:
    """For one transaction, which holds the lock on each count's post."""

    def __init__(
        self,
        session: Session,
        milestones: Sequence[int],
        counts: Sequence[ViewCount],
        erased: Collection[str],
        events: list[NewEvent],
    ) -> None:
        self._session, self._milestones = session, sorted(milestones)
        self._erased, self._events = erased, events
        self._highest: dict[str, ViewCount] = {}
        self._passed: dict[str, list[int]] = {}
        self._changed: set[str] = set()
        self._undecided: list[tuple[ViewCount, int]] = []
        if counts:
            ids = {count.post_id for count in counts}
            for row in session.scalars(select(ViewCountRow).where(ViewCountRow.post_id.in_(ids))):
                self._highest[row.post_id] = ViewCount(row.post_id, row.views, row.at)
                self._passed[row.post_id] = json.loads(row.milestones)

    def add(self, count: ViewCount) -> Concluded:
        if count.post_id in self._erased:
            return "erased"
        highest = self._highest.get(count.post_id)
        if highest is not None and (count.views, -count.at.timestamp()) <= (highest.views, -highest.at.timestamp()):
            return "done"  # the higher count has told all that this one could
        self._highest[count.post_id] = count
        self._changed.add(count.post_id)
        passed = self._passed.setdefault(count.post_id, [])
        for milestone in self._milestones:
            if milestone <= count.views and milestone not in passed:
                passed.append(milestone)
                self._events.append(_passed(count, milestone))
                self._undecided.append((count, milestone))
        return "done"

    def flush(self) -> None:
        rows = [self._values(self._highest[post_id]) for post_id in sorted(self._changed)]
        if rows:
            statement = upsert(self._session, ViewCountRow)
            moved = {name: statement.excluded[name] for name in ("views", "at", "milestones")}
            self._session.execute(statement.on_conflict_do_update(index_elements=["post_id"], set_=moved), rows)
        gate_jobs.add(self._session, sorted(self._undecided, key=lambda due: (due[0].post_id, due[1])))

    def _values(self, count: ViewCount) -> dict[str, Any]:
        passed = json.dumps(self._passed.get(count.post_id, []))
        return {"post_id": count.post_id, "views": count.views, "at": count.at, "milestones": passed}


def _passed(count: ViewCount, milestone: int) -> NewEvent:
    payload = {"post_id": count.post_id, "milestone": milestone, "views": count.views, "at": count.at.isoformat()}
    return NewEvent(outbox.MILESTONES, outbox.POST_MILESTONE, count.post_id, payload)
