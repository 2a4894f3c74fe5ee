"""What the live estimate of recall is made of, counted in the database, and the alarm, at most one a day."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Float, Integer, and_, case, cast, func, select
from sqlalchemy.orm import Session, aliased

from serve_app.recall import Kinds, Recall, Seen, Unseen
from serve_app.records import leases, outbox
from serve_app.records.bulk import upsert
from serve_app.records.engine import Database
from serve_app.records.gate_tables import GateDecisionRow, GateStateRow, OutcomeRow
from serve_app.records.review_queue import primary_language

_ALARM = "recall_low"
_A_DAY = timedelta(days=1)


class RecallStore:
    def __init__(self, database: Database, milestones: Sequence[int]) -> None:
        ordered = sorted(milestones)
        self._database, self._first = database, ordered[0]
        self._second = ordered[1] if len(ordered) > 1 else None

    async def kinds(self, since: datetime, until: datetime | None = None) -> dict[str, Kinds]:
        """Posts that the first net decided in [since, until), by the first subtag of their language."""
        query = _counts(self._first, self._second, since, until or leases.now())

        def work(session: Session) -> dict[str, Kinds]:
            found: dict[str, Kinds] = {}
            for row in session.execute(query).mappings():
                language = primary_language(row["language"])
                found[language] = found.get(language, Kinds()) + _kinds(dict(row))
            return found

        return await self._database.read(work)

    async def alarm(self, low: Recall, target: float, by_language: Sequence[Recall]) -> bool:
        """Tell that recall may be below its target. False where that was told within a day."""
        at = leases.now()

        def work(session: Session) -> bool:
            values = {"value": json.dumps(low.lower), "at": at}
            statement = upsert(session, GateStateRow).values(name=_ALARM, **values)
            due = GateStateRow.at <= at - _A_DAY
            told = statement.on_conflict_do_update(index_elements=["name"], set_=values, where=due)
            if session.scalar(told.returning(GateStateRow.name)) is None:
                return False
            payload = _shown(low) | {"target": target, "languages": {str(r.language): _shown(r) for r in by_language}}
            event = outbox.NewEvent(outbox.GATE, outbox.GATE_RECALL_LOW, _ALARM, payload)
            outbox.add(session, event)
            return True

        return await self._database.write(work)


def _shown(recall: Recall) -> dict[str, Any]:
    return {"recall": recall.estimate, "lower": recall.lower, "upper": recall.upper, "bad": recall.kinds.bad_found}


def _counts(first: int, second: int | None, since: datetime, until: datetime) -> Any:
    one, two, said = GateDecisionRow, aliased(GateDecisionRow), OutcomeRow
    later = and_(two.post_id == one.post_id, two.milestone == (second or -1), two.revision == one.revision)
    judged_same = and_(said.post_id == one.post_id, said.revision == one.revision)
    ruled = (one.verdict_action == "review") | (func.coalesce(two.action, "") == "review")
    kind = case((one.action == "review", "reviewed"), (ruled, "caught"), else_="unseen")
    drawn = one.audit | func.coalesce(two.audit, False)
    missed = (1.0 - one.inclusion_probability) * (1.0 - func.coalesce(two.inclusion_probability, 0.0))
    weight = 1.0 / case((missed < 1.0, 1.0 - missed), else_=1.0)
    seen = said.outcome.is_not(None)
    audited = seen & drawn
    bad = said.outcome == "discard"
    return (
        select(
            one.language.label("language"),
            kind.label("kind"),
            func.count().label("posts"),
            _count(seen).label("judged"),
            _count(seen & bad).label("bad"),
            _count(drawn).label("drawn"),
            _count(audited).label("audited"),
            _count(audited & bad).label("audited_bad"),
            _sum(audited, weight).label("weights"),
            _sum(audited, weight * weight).label("squares"),
            _sum(audited & bad, weight).label("bad_weights"),
        )
        .join(two, later, isouter=True)
        .join(said, judged_same, isouter=True)
        .where(one.milestone == first, one.decided_at >= since, one.decided_at < until)
        .group_by(one.language, kind)
    )


def _count(condition: Any) -> Any:
    return func.coalesce(func.sum(cast(case((condition, 1), else_=0), Integer)), 0)


def _sum(condition: Any, value: Any) -> Any:
    return func.coalesce(func.sum(cast(case((condition, value), else_=0.0), Float)), 0.0)


def _kinds(row: Mapping[str, Any]) -> Kinds:
    seen = Seen(row["posts"], row["judged"], row["bad"])
    match row["kind"]:
        case "reviewed":
            return Kinds(reviewed=seen)
        case "caught":
            return Kinds(caught=seen)
    unseen = Unseen(
        posts=row["posts"],
        drawn=row["drawn"],
        judged=row["audited"],
        bad=row["audited_bad"],
        weights=row["weights"],
        squares=row["squares"],
        bad_weights=row["bad_weights"],
    )
    return Kinds(unseen=unseen)
