"""How the gate's values stand in rows and leave as events."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast

from deployments.review_gate.values import AuthorHistory, Contribution, GateAction, GateDecision, HistoryStatus
from serve_app.records import outbox
from serve_app.records.gate_tables import GateDecisionRow, GateJobRow
from serve_app.records.gate_values import Decided, GateJob, Opening, StoredDecision
from serve_app.records.outbox import NewEvent

NEVER = datetime(9999, 1, 1, tzinfo=UTC)  # `available_at` of a job that waits for a verdict


def job(row: GateJobRow) -> GateJob:
    return GateJob(row.post_id, row.milestone, row.views, row.reached_at, row.attempts)


def values(made: Decided, at: datetime) -> dict[str, Any]:
    job, post, history, decision = made.job, made.post, made.history, made.decision
    return {
        "post_id": job.post_id,
        "milestone": job.milestone,
        "revision": post.revision,
        "author_id": post.author_id,
        "language": post.language,
        "content_type": post.content_type,
        "created_at": post.created_at,
        "reached_at": job.reached_at,
        "views": job.views,
        "nsfw_score": post.nsfw_score,
        "category_scores": json.dumps(dict(post.category_scores)),
        "verdict_action": post.verdict_action,
        "history_status": history.status,
        "author_posts": history.posts,
        "author_discards": history.discards,
        "action": decision.action,
        "audit": made.draw.audit,
        "inclusion_probability": made.draw.probability,
        "score": decision.score,
        "threshold": decision.threshold,
        "stratum": decision.stratum[:96],
        "reason": decision.reason,
        "model": decision.model[:128],
        "model_version": decision.model_version[:128],
        "calibration": decision.calibration[:128],
        "policy_version": post.policy_version,
        "contributions": json.dumps(
            {
                "reasons": [asdict(each) for each in decision.contributions],
                "history": {
                    "window_days": history.window_days,
                    "as_of": None if history.as_of is None else history.as_of.isoformat(),
                },
            }
        ),
        "decided_at": at,
    }


def made(decided: Decided, at: datetime) -> StoredDecision:
    return StoredDecision(
        post_id=decided.job.post_id,
        milestone=decided.job.milestone,
        revision=decided.post.revision,
        views=decided.job.views,
        reached_at=decided.job.reached_at.astimezone(UTC),
        history=decided.history,
        decision=decided.decision,
        audit=decided.draw.audit,
        inclusion_probability=decided.draw.probability,
        policy_version=decided.post.policy_version,
        decided_at=at,
    )


def stored(row: GateDecisionRow) -> StoredDecision:
    kept = json.loads(row.contributions)
    as_of = kept["history"]["as_of"]
    return StoredDecision(
        post_id=row.post_id,
        milestone=row.milestone,
        revision=row.revision,
        views=row.views,
        reached_at=row.reached_at,
        history=AuthorHistory(
            cast(HistoryStatus, row.history_status),
            row.author_posts,
            row.author_discards,
            kept["history"]["window_days"],
            None if as_of is None else datetime.fromisoformat(as_of),
        ),
        decision=GateDecision(
            action=cast(GateAction, row.action),
            score=row.score,
            threshold=row.threshold,
            stratum=row.stratum,
            reason=row.reason,
            model=row.model,
            model_version=row.model_version,
            calibration=row.calibration,
            contributions=tuple(Contribution(**each) for each in kept["reasons"]),
        ),
        audit=row.audit,
        inclusion_probability=row.inclusion_probability,
        policy_version=row.policy_version,
        decided_at=row.decided_at,
    )


def event(decision: StoredDecision) -> NewEvent:
    made = decision.decision
    payload = {
        "post_id": decision.post_id,
        "milestone": decision.milestone,
        "revision": decision.revision,
        "action": made.action,
        "audit": decision.audit,
        "score": made.score,
        "threshold": made.threshold,
        "stratum": made.stratum,
        "model": made.model,
        "model_version": made.model_version,
        "calibration": made.calibration,
        "policy_version": decision.policy_version,
        "decided_at": decision.decided_at.isoformat(),
    }
    return NewEvent(outbox.GATE, outbox.GATE_DECIDED, decision.post_id, payload)


def opening(made: Decided) -> Opening | None:
    """The decision's place in the moderators' queue."""
    if made.decision.action != "review" and not made.draw.audit:
        return None
    post = made.post
    return Opening(
        post_id=post.post_id,
        revision=post.revision,
        author_id=post.author_id,
        language=post.language,
        content_type=post.content_type,
        created_at=post.created_at,
        nsfw_score=post.nsfw_score,
        source="gate" if made.decision.action == "review" else "audit",
        milestone=made.job.milestone,
    )
