"""Messages of the event path and what became of them, for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from deployments.policy.policy import UNSAFE, default_policy
from serve_app.events.message import Message
from serve_app.records import Records
from serve_app.records.values import (
    Conclusion,
    EventId,
    JudgedClip,
    JudgedPost,
    OutboxEvent,
    Refusal,
    Submission,
    ViewCount,
)
from serve_app.streams.values import ClipResult
from tests.records.conftest import submission, verdict_for

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def message(offset: int = 0, **changes: Any) -> Message:
    given: dict[str, Any] = {"topic": "posts", "partition": 0, "value": b'{"n": %d}' % offset, "timestamp": AT}
    return Message(**(given | {"offset": offset} | changes))


def concluded(work: Any, event: str | None = None, offset: int = 0, **changes: Any) -> Conclusion:
    """`event`: its id; by default one that goes with the work."""
    return Conclusion(message(offset, **changes), EventId("tests", event or f"{work!r}"), work)


def judged_post(post_id: str = "p1", caption: str = "good morning", policy: str = "1", **changes: Any) -> JudgedPost:
    content = changes.pop("content", None)
    asked: Submission = submission(post_id, caption, **changes)
    verdict = verdict_for(asked, policy).model_copy(update={"decided_at": AT, "age_s": 0.0})
    return JudgedPost(asked, verdict, content)


def clip(stream_id: str = "s1", number: int = 0, score: float = 0.01, **changes: Any) -> ClipResult:
    """The 20 s from `number` * 20; `score` is of `hate`."""
    scores = dict.fromkeys(UNSAFE, 0.0) | {"hate": score, "safe": 1 - score}
    recorded = AT + timedelta(seconds=20 * (number + 1))
    given: dict[str, Any] = {
        "stream_id": stream_id,
        "start_s": 20.0 * number,
        "duration_s": 20.0,
        "created_at": recorded,
        "decided_at": recorded + timedelta(seconds=3),
        "age_s": 3.0,
        "language": "hi",
        "model_language": "hi",
        "fallback": False,
        "nsfw_score": score,
        "category_scores": scores,
        "policy_version": default_policy().version,
        "sound_sha256": f"{number:064x}",
    }
    return ClipResult(**(given | changes))


def judged_clip(*args: Any, **changes: Any) -> JudgedClip:
    return JudgedClip(clip(*args, **changes))


def views(count: int, post_id: str = "p1", minutes: int = 0) -> ViewCount:
    return ViewCount(post_id, count, AT + timedelta(minutes=minutes))


REFUSAL = Refusal("not_json", "The message is not JSON.")


async def told(records: Records, topic: str | None = None) -> list[OutboxEvent]:
    """All that waits in the outbox."""
    events = await records.outbox.pending(100_000)
    return [event for event in events if topic in (None, event.topic)]
