"""The moderators' queue: one open review a post, no review with two people, what is decided can be taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serve_app.gate_settings import GatingSettings, QueueSettings
from serve_app.records import Records, outbox
from serve_app.records.errors import ReviewDecided, ReviewNotFound, ReviewNotHeld, UndoRefused
from serve_app.records.reviews import ReviewStore
from tests.records.conclusions import told
from tests.records.gating import add_posts, add_views, gating_of, post_of, reviewed, work_off


def queue_of(records: Records, **changes: Any) -> ReviewStore:
    return ReviewStore(records._database, QueueSettings(**changes))


async def waiting(records: Records) -> dict[str, tuple[str, ...]]:
    found = {}
    for review in await records.reviews.claim("looker", 1000):
        found[review.post_id] = review.sources
    return found


class TestIntoTheQueue:
    async def test_a_verdict_review_is_queued_from_either_door(self, records: Records) -> None:
        event, http = post_of("event", action="review"), post_of("http", action="review")
        await add_posts(records, event, post_of("fine"))
        ticket = await records.posts.accept(http.submission, lease_s=60)
        assert ticket.lease is not None
        await records.posts.conclude(ticket.lease, http.verdict)
        assert await waiting(records) == {"event": ("verdict",), "http": ("verdict",)}

    async def test_a_post_is_in_it_once_with_all_its_reasons(self, records: Records) -> None:
        await add_posts(records, post_of("p1", 0.9, action="review"))
        await add_views(records, 5000, "p1")
        await work_off(gating_of(records))
        (review,) = await records.reviews.claim("m", 10)
        assert (review.sources, review.milestone) == (("verdict", "gate"), 1000)
        assert (review.due_at - review.created_at).total_seconds() == GatingSettings().queue.verdict_due_s

    async def test_what_is_due_first_comes_first_whatever_its_age(self, records: Records) -> None:
        await add_posts(records, post_of("p1", 0.9))
        await add_views(records, 1000, "p1")
        await work_off(gating_of(records))
        await add_posts(records, post_of("p2", action="review"))
        assert [review.post_id for review in await records.reviews.claim("m", 10)] == ["p2", "p1"]

    async def test_a_new_revision_is_what_the_open_review_is_about(self, records: Records) -> None:
        await add_posts(records, post_of("p1", 0.6, action="review"))
        await add_posts(records, post_of("p1", 0.8, action="review", revision=1))
        (review,) = await records.reviews.claim("m", 10)
        assert (review.revision, review.nsfw_score, review.sources) == (1, 0.8, ("verdict",))

    async def test_what_a_person_said_of_a_revision_stands(self, records: Records) -> None:
        await add_posts(records, post_of("p1", 0.9, action="review"))
        await reviewed(records, "p1", "ok")
        await add_views(records, 5000, "p1")
        await work_off(gating_of(records))
        assert await waiting(records) == {}
        assert len(await records.gate.decisions("p1")) == 2
        await add_posts(records, post_of("p1", 0.9, action="review", revision=1))
        assert await waiting(records) == {"p1": ("verdict",)}

    async def test_languages_are_matched_by_their_first_subtag(self, records: Records) -> None:
        tags = {"p1": "hi-Latn-IN", "p2": "ta", "p3": None, "p4": "HI"}
        await add_posts(records, *(post_of(post, action="review", language=tag) for post, tag in tags.items()))
        found = await records.reviews.claim("m", 10, ["hi-IN"])
        assert {review.post_id for review in found} == {"p1", "p4"}
        assert {review.post_id for review in await records.reviews.claim("m", 10)} == {"p2", "p3"}


class TestClaims:
    async def test_many_at_once_never_get_the_same(self, open_records: Callable[[], Any]) -> None:
        opened = [await open_records() for _ in range(3)]
        await add_posts(opened[0], *(post_of(f"p{n}", action="review") for n in range(40)))
        claims = [opened[n % 3].reviews.claim(f"m{n}", 4) for n in range(15)]
        found = [review.review_id for claim in await asyncio.gather(*claims) for review in claim]
        rest = [review.review_id for review in await opened[0].reviews.claim("last", 100)]
        assert len(found) == len(set(found))
        assert len({*found, *rest}) == 40

    async def test_a_lock_ends(self, records: Records) -> None:
        short = queue_of(records, claim_s=0.05)
        await add_posts(records, post_of(action="review"))
        (first,) = await short.claim("m1", 1)
        assert await short.claim("m2", 1) == []
        await asyncio.sleep(0.1)
        (second,) = await short.claim("m2", 1)
        assert second.review_id == first.review_id
        with pytest.raises(ReviewNotHeld):
            await short.decide(first.review_id, "m1", "ok")
        assert (await short.decide(first.review_id, "m2", "ok")).outcome == "ok"

    async def test_a_late_decision_counts_while_nobody_else_has_it(self, records: Records) -> None:
        short = queue_of(records, claim_s=0.01)
        await add_posts(records, post_of(action="review"))
        (review,) = await short.claim("m1", 1)
        await asyncio.sleep(0.05)
        assert (await short.decide(review.review_id, "m1", "ok")).outcome == "ok"

    async def test_unclaimed_it_is_nobodys(self, records: Records) -> None:
        await add_posts(records, post_of(action="review"))
        (review,) = await records.reviews.claim("m1", 1)
        with pytest.raises(ReviewNotHeld):
            await records.reviews.decide(review.review_id, "m2", "ok")
        with pytest.raises(ReviewNotFound):
            await records.reviews.decide("nothing", "m2", "ok")


class TestDecisions:
    async def test_one_outcome_however_often_and_at_once(self, records: Records) -> None:
        await add_posts(records, post_of(action="review"))
        (review,) = await records.reviews.claim("m1", 1)
        same = [records.reviews.decide(review.review_id, "m1", "discard", "hate") for _ in range(5)]
        assert len({each.decided_at for each in await asyncio.gather(*same)}) == 1
        with pytest.raises(ReviewDecided):
            await records.reviews.decide(review.review_id, "m1", "ok")
        with pytest.raises(ReviewDecided):
            await records.reviews.decide(review.review_id, "m2", "ok")
        (event,) = await told(records, outbox.REVIEWS)
        assert (event.type, event.key, event.payload["outcome"]) == ("parakh.review.decided", "p1", "discard")

    async def test_undo_gives_it_back_to_the_queue_and_to_its_moderator(self, records: Records) -> None:
        await add_posts(records, post_of("p1", action="review"))
        review = await reviewed(records, "p1")
        again = await records.reviews.undo(review.review_id, "m1")
        assert (again.decided_at, again.outcome, again.claimed_by) == (None, None, "m1")
        assert await records.reviews.undo(review.review_id, "m1") == again
        assert (await records.reviews.count()).open == 1
        assert await records.reviews.claim("m2", 1) == []
        await records.reviews.decide(review.review_id, "m1", "ok")
        types = [event.type for event in await told(records, outbox.REVIEWS)]
        assert types == ["parakh.review.decided", "parakh.review.undone", "parakh.review.decided"]

    async def test_only_who_decided_or_an_admin_undoes_and_not_for_ever(self, records: Records) -> None:
        await add_posts(records, post_of("p1", action="review"), post_of("p2", action="review"))
        review = await reviewed(records, "p1")
        with pytest.raises(ReviewNotHeld):
            await records.reviews.undo(review.review_id, "m2")
        await asyncio.sleep(0.05)
        with pytest.raises(UndoRefused):
            await queue_of(records, undo_s=0.01).undo(review.review_id, "m1")
        assert (await records.reviews.undo(review.review_id, "boss", admin=True)).claimed_by == "boss"

    async def test_not_where_the_post_waits_again(self, records: Records) -> None:
        await add_posts(records, post_of("p1", action="review"))
        review = await reviewed(records, "p1")
        await add_posts(records, post_of("p1", action="review", revision=1))
        with pytest.raises(UndoRefused):
            await records.reviews.undo(review.review_id, "m1")
        assert (await records.reviews.find(review.review_id)).outcome == "discard"

    async def test_an_erasure_between_claim_and_decision(self, records: Records) -> None:
        await add_posts(records, post_of(action="review"))
        (review,) = await records.reviews.claim("m1", 1)
        await records.erasures.erase("p1", "a")
        with pytest.raises(ReviewNotFound):
            await records.reviews.decide(review.review_id, "m1", "ok")
        assert await told(records, outbox.REVIEWS) == []
