"""Posts, views and decisions of the review gate, for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from deployments.runtime.values import ContentType
from serve_app.gate_settings import GatingSettings
from serve_app.gating import FakeGate, Gating
from serve_app.posts import Post
from serve_app.records import Records
from serve_app.records.gate_tables import ReviewRow
from serve_app.records.gate_values import Outcome, Review
from serve_app.records.values import JudgedPost, Submission, ViewCount
from tests.records.conclusions import concluded
from tests.records.conftest import verdict_for

CREATED = datetime(2026, 11, 1, 8, tzinfo=UTC)
REACHED = datetime(2026, 11, 1, 12, tzinfo=UTC)


def post_of(post_id: str = "p1", score: float = 0.1, **changes: Any) -> JudgedPost:
    """A judged post; `action` is its verdict's."""
    action = changes.pop("action", "allow")
    given: dict[str, Any] = {
        "post_id": post_id,
        "author_id": "a1",
        "content_type": ContentType.TEXT,
        "created_at": CREATED,
        "language": "hi-IN",
        "caption": "words",
    }
    post = Post(**(given | changes))
    verdict = verdict_for(Submission(post=post, fingerprint=f"{post_id}:{post.revision}"))
    decision = verdict.decision.model_copy(update={"action": action})
    scored = verdict.model_copy(update={"nsfw_score": score, "decision": decision})
    return JudgedPost(Submission(post=post, fingerprint=f"{post_id}:{post.revision}"), scored)


async def add_posts(records: Records, *posts: JudgedPost) -> None:
    works = [concluded(post, f"post {post.verdict.post_id} {post.verdict.revision}") for post in posts]
    assert set(await records.events.conclude(works)) == {"done"}


async def add_views(records: Records, count: int, *post_ids: str, at: datetime = REACHED) -> None:
    works = [concluded(ViewCount(post_id, count, at), f"views {post_id} {count} {at}") for post_id in post_ids]
    await records.events.conclude(works)


def gating_of(records: Records, gate: FakeGate | None = None, share: float = 0.0, **settings: Any) -> Gating:
    gating = Gating(records.gate, records.authors, gate or FakeGate(), GatingSettings(**settings))
    gating.audit(share)
    return gating


async def work_off(gating: Gating) -> int:
    done = 0
    while claimed := await gating.run_once():
        done += claimed
    return done


async def reviewed(records: Records, post_id: str, outcome: Outcome = "discard", by: str = "m1") -> Review:
    """Claim all there is, and decide this one."""
    await records.reviews.claim(by, 1000)
    query = select(ReviewRow.review_id).where(ReviewRow.post_id == post_id, ReviewRow.decided_at.is_(None))
    review_id = await records._database.read(lambda session: session.scalars(query).one())
    return await records.reviews.decide(review_id, by, outcome, "hate" if outcome == "discard" else None)


def days(n: float) -> timedelta:
    return timedelta(days=n)
