"""Milestones that wait for the gate: written with the count that passed them, woken by the verdict they waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from serve_app.records import leases
from serve_app.records.bulk import upsert
from serve_app.records.gate_tables import GateJobRow
from serve_app.records.values import ViewCount


def add(session: Session, passed: Sequence[tuple[ViewCount, int]]) -> None:
    """Milestones that are to be decided. Joins the caller's transaction, which holds the locks on the posts."""
    at = leases.now()
    rows: list[dict[str, Any]] = [
        {
            "post_id": count.post_id,
            "milestone": milestone,
            "views": count.views,
            "reached_at": count.at,
            "created_at": at,
            "available_at": at,
            "attempts": 0,
            "error": None,
        }
        for count, milestone in passed
    ]
    if rows:
        session.execute(upsert(session, GateJobRow).on_conflict_do_nothing(), rows)


def wake(session: Session, post_ids: Sequence[str]) -> None:
    """Locked in the order of their keys, as everywhere."""
    parked = (
        select(GateJobRow)
        .where(GateJobRow.post_id.in_(sorted(set(post_ids))), GateJobRow.available_at >= leases.now())
        .order_by(GateJobRow.post_id, GateJobRow.milestone)
        .with_for_update()
    )
    for row in session.scalars(parked):
        if row.error is not None:  # not one that a worker has at this moment
            row.available_at = leases.now()
