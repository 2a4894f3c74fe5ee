"""Exactly one decision for each post and milestone, whatever comes how often, in which order, and who dies."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.runtime.errors import InvalidInput, NodeUnavailable
from serve_app.gating import FakeGate
from serve_app.records import Records, outbox
from serve_app.records.errors import NotJudgedYet, PostNotFound
from serve_app.records.values import ViewCount
from tests.databases import sqlite_url
from tests.records.conclusions import concluded, told
from tests.records.gating import CREATED, REACHED, add_posts, add_views, days, gating_of, post_of, work_off


async def decided(records: Records, post_id: str = "p1") -> list[tuple[int, str]]:
    return [(each.milestone, each.decision.action) for each in await records.gate.decisions(post_id)]


class TestMilestones:
    async def test_each_is_decided_once_by_what_was_known_then(self, records: Records) -> None:
        gate = FakeGate()
        await add_posts(records, post_of("p1", 0.1), post_of("p2", 0.9, author_id="a2"))
        await add_views(records, 1200, "p1", "p2")
        assert await work_off(gating_of(records, gate)) == 2
        (low,), (high,) = await records.gate.decisions("p1"), await records.gate.decisions("p2")
        assert (low.decision.action, high.decision.action) == ("skip", "review")
        assert (low.views, low.reached_at, low.milestone, low.policy_version) == (1200, REACHED, 1000, "1")
        assert {post.language for post in gate.asked} == {"hi-IN"}
        events = await told(records, outbox.GATE)
        assert [(event.type, event.key, event.payload["action"]) for event in events] == [
            ("parakh.gate.decided", "p1", "skip"),
            ("parakh.gate.decided", "p2", "review"),
        ]
        assert await work_off(gating_of(records, gate)) == 0

    async def test_a_jump_is_decided_milestone_by_milestone(self, records: Records) -> None:
        gate = FakeGate()
        await add_posts(records, post_of())
        await add_views(records, 5000, "p1")
        await work_off(gating_of(records, gate))
        assert [post.milestone for post in gate.asked] == [1000, 2000]
        assert await decided(records) == [(1000, "skip"), (2000, "skip")]

    async def test_a_higher_one_waits_for_the_lower_one_that_another_worker_has(self, records: Records) -> None:
        await add_posts(records, post_of())
        await add_views(records, 5000, "p1")
        (first,) = await records.gate.claim(10, 60)
        assert first.milestone == 1000
        assert await records.gate.claim(10, 60) == []

    async def test_views_before_the_verdict_wait_for_it_and_cost_nothing_meanwhile(self, records: Records) -> None:
        gating = gating_of(records)
        await add_views(records, 5000, "p1")
        assert await work_off(gating) == 1
        assert await work_off(gating) == 0
        assert await records.gate.waiting() == (1, (await records.gate.waiting())[1])  # 2000 still waits for 1000
        await add_posts(records, post_of())
        await work_off(gating)
        assert [milestone for milestone, _ in await decided(records)] == [1000, 2000]

    async def test_a_verdict_that_comes_while_a_worker_finds_none_is_not_missed(self, records: Records) -> None:
        await add_views(records, 1000, "p1")
        jobs = await records.gate.claim(10, 60)
        await add_posts(records, post_of())
        await records.gate.park(jobs)
        assert await work_off(gating_of(records)) == 1

    async def test_what_never_gets_a_verdict_is_given_up_in_the_end(self, records: Records) -> None:
        await add_views(records, 1000, "p1")
        await work_off(gating_of(records))
        assert await records.gate.forget_parked(60) == 0
        await asyncio.sleep(0.02)
        assert await records.gate.forget_parked(0.01) == 1

    async def test_a_time_before_the_post_counts_as_the_posts(self, records: Records) -> None:
        gate = FakeGate()
        await add_posts(records, post_of())
        await add_views(records, 1000, "p1", at=CREATED - days(1))
        await work_off(gating_of(records, gate))
        assert gate.asked[0].reached_at == CREATED

    async def test_the_newest_judged_revision_is_what_is_decided(self, records: Records) -> None:
        await add_posts(records, post_of("p1", 0.1), post_of("p1", 0.9, revision=1))
        await add_views(records, 1000, "p1")
        await work_off(gating_of(records))
        (decision,) = await records.gate.decisions("p1")
        assert (decision.revision, decision.decision.action) == (1, "review")


class TestFailures:
    async def test_a_sick_gate_loses_nothing(self, records: Records) -> None:
        gate = FakeGate()
        gate.errors = [NodeUnavailable()]
        gating = gating_of(records, gate, retry_base_s=0.01)
        await add_posts(records, post_of())
        await add_views(records, 1000, "p1")
        assert await gating.run_once() == 1
        assert await decided(records) == []
        await asyncio.sleep(0.05)
        await work_off(gating)
        assert await decided(records) == [(1000, "skip")]

    async def test_one_bad_post_changes_nothing_for_the_others(self, records: Records) -> None:
        gate = FakeGate()
        gate.refuses = {"p2"}
        await add_posts(records, post_of("p1"), post_of("p2"), post_of("p3"))
        await add_views(records, 1000, "p1", "p2", "p3")
        await gating_of(records, gate).run_once()
        assert [len(await decided(records, post)) for post in ("p1", "p2", "p3")] == [1, 0, 1]

    async def test_a_worker_that_died_with_a_job_loses_nothing(self, records: Records) -> None:
        await add_posts(records, post_of())
        await add_views(records, 1000, "p1")
        assert len(await records.gate.claim(10, 0.05)) == 1
        await asyncio.sleep(0.1)
        assert await work_off(gating_of(records)) == 1

    async def test_many_workers_in_several_processes_decide_each_once(self, open_records: Callable[[], Any]) -> None:
        opened = [await open_records() for _ in range(3)]
        ids = [f"p{n}" for n in range(30)]
        await add_posts(opened[0], *(post_of(post_id, n / 30) for n, post_id in enumerate(ids)))
        await add_views(opened[0], 3000, *ids)
        gates = [gating_of(records, batch=4, busy_s=0.02) for records in opened]  # so short that they overtake
        await asyncio.gather(*(work_off(gating) for gating in gates))
        await asyncio.sleep(0.05)
        await work_off(gates[0])
        for post_id in ids:
            assert [milestone for milestone, _ in await decided(opened[0], post_id)] == [1000, 2000]
        assert len(await told(opened[0], outbox.GATE)) == 60

    async def test_an_erased_post_has_no_decision_left_and_gets_none(self, records: Records) -> None:
        await add_posts(records, post_of("p1", 0.9), post_of("p2"))
        await add_views(records, 1000, "p1")
        await work_off(gating_of(records))
        await add_views(records, 2000, "p1")
        jobs = await records.gate.claim(10, 0.0)
        await records.erasures.erase("p1", "a")
        assert await decided(records) == []
        assert (await records.reviews.count()).open == 0
        await records.gate.retry(jobs, "x", 0)
        assert await work_off(gating_of(records)) == 0
        assert [event.type for event in await told(records, outbox.GATE)] == []


class TestAtOnce:
    async def test_it_answers_what_stands(self, records: Records) -> None:
        gate = FakeGate()
        gating = gating_of(records, gate)
        await add_posts(records, post_of())
        first = await gating.decide_now(ViewCount("p1", 1500, REACHED))
        gate.threshold = 0.0
        assert await gating.decide_now(ViewCount("p1", 1600, REACHED)) == first
        assert await gating.decide_now(ViewCount("p1", 1000, REACHED), 1000) == first
        assert (first.milestone, first.decision.action) == (1000, "skip")
        assert await work_off(gating) == 0

    async def test_the_ones_below_are_decided_before(self, records: Records) -> None:
        gate = FakeGate()
        await add_posts(records, post_of())
        stands = await gating_of(records, gate).decide_now(ViewCount("p1", 9000, REACHED))
        assert stands.milestone == 2000
        assert [post.milestone for post in gate.asked] == [1000, 2000]
        assert len(await told(records, outbox.MILESTONES)) == 2

    async def test_what_an_event_brought_is_not_decided_again(self, records: Records) -> None:
        gate = FakeGate()
        gating = gating_of(records, gate)
        await add_posts(records, post_of())
        await add_views(records, 2500, "p1")
        await work_off(gating)
        stands = await gating.decide_now(ViewCount("p1", 1000, REACHED), 1000)
        assert (stands.milestone, stands.views, len(gate.asked)) == (1000, 2500, 2)

    async def test_what_cannot_be_decided_changes_nothing(self, records: Records) -> None:
        gating = gating_of(records)
        await add_posts(records, post_of())
        await records.posts.accept(post_of("p2").submission, lease_s=None)
        for post_id, views, milestone, error in (
            ("p1", 999, None, InvalidInput),
            ("p1", 1500, 2000, InvalidInput),
            ("p1", 1500, 1500, InvalidInput),
            ("nobody", 1000, None, PostNotFound),
            ("p2", 1000, None, NotJudgedYet),
        ):
            with pytest.raises(error):
                await gating.decide_now(ViewCount(post_id, views, REACHED), milestone)
        assert await records.gate.waiting() == (0, None)
        assert await told(records, outbox.MILESTONES) == []

    async def test_a_sick_gate_is_told_and_the_worker_decides_later(self, records: Records) -> None:
        gate = FakeGate()
        gate.errors = [NodeUnavailable()]
        gating = gating_of(records, gate)
        await add_posts(records, post_of())
        with pytest.raises(NodeUnavailable):
            await gating.decide_now(ViewCount("p1", 1000, REACHED))
        assert await work_off(gating) == 1

    async def test_ten_at_once_have_one_answer(self, records: Records) -> None:
        gate = FakeGate()
        gate.delay_s = 0.01
        gating = gating_of(records, gate, share=0.5)
        await add_posts(records, post_of())
        asked = [gating.decide_now(ViewCount("p1", 2000 + n, REACHED)) for n in range(10)]
        answers = await asyncio.gather(*asked, work_off(gating))
        assert len({repr(answer) for answer in answers[:-1]}) == 1
        assert len(await told(records, outbox.GATE)) == 2


class TestAuditSample:
    async def test_a_repetition_draws_the_same(self, open_records: Callable[[], Any]) -> None:
        one, two = await open_records(), await open_records()
        assert await one.gate.salt() == await two.gate.salt()
        assert len(await one.gate.salt()) == 32

    async def test_a_share_of_the_skipped_goes_to_review_with_its_probability(self, records: Records) -> None:
        ids = [f"p{n}" for n in range(400)]
        await add_posts(records, *(post_of(post_id) for post_id in ids), post_of("bad", 0.9))
        await add_views(records, 1000, *ids, "bad")
        await work_off(gating_of(records, share=0.25))
        decisions = [(await records.gate.decisions(post_id))[0] for post_id in ids]
        drawn = [each for each in decisions if each.audit]
        assert 60 <= len(drawn) <= 140  # 100 expected, 9 its standard deviation
        assert {each.inclusion_probability for each in decisions} == {0.25}
        assert (await records.gate.decisions("bad"))[0].inclusion_probability == 1.0
        queue = await records.reviews.claim("m", 500)
        assert queue[0].post_id == "bad"  # due before the audits
        assert {review.post_id for review in queue[1:]} == {each.post_id for each in drawn}
        assert {review.sources for review in queue[1:]} == {("audit",)}

    @pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 20)])
    async def test_none_and_all(self, records: Records, share: float, expected: int) -> None:
        ids = [f"p{n}" for n in range(20)]
        await add_posts(records, *(post_of(post_id) for post_id in ids))
        await add_views(records, 1000, *ids)
        await work_off(gating_of(records, share=share))
        assert (await records.reviews.count()).open == expected


events = st.lists(
    st.tuples(st.sampled_from(["p0", "p1", "p2"]), st.sampled_from([10, 999, 1000, 1999, 2000, 50_000])),
    min_size=1,
    max_size=15,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seen=events, seed=st.integers(0, 2**32), fails=st.lists(st.booleans(), max_size=6))
def test_random_orders_lose_and_double_nothing(seen: list[tuple[str, int]], seed: int, fails: list[bool]) -> None:
    """Counts before and after their posts, repeated, in batches, with workers between that fail, and askers."""

    async def run(folder: str) -> None:
        records = await Records.open(sqlite_url(Path(folder)))
        chance, gate = random.Random(seed), FakeGate()
        gate.errors = [NodeUnavailable() for fail in fails if fail]
        gating = gating_of(records, gate, share=0.5, retry_base_s=0.001, retry_max_s=0.001)
        works: list[Any] = [concluded(post_of(f"p{n}", n / 3), f"post {n}") for n in range(3)]
        works += [concluded(ViewCount(post, views, REACHED), f"{post} {views}") for post, views in seen]
        works += chance.sample(works, k=len(works) // 2)
        chance.shuffle(works)
        while works:
            await records.events.conclude([works.pop() for _ in range(min(len(works), chance.randint(1, 4)))])
            if chance.random() < 0.3:
                await gating.run_once()
            post, views = chance.choice(seen)
            if chance.random() < 0.2 and views >= 1000:
                await asyncio.gather(gating.decide_now(ViewCount(post, views, REACHED)), return_exceptions=True)
        gate.errors = []
        await asyncio.sleep(0.003)
        await work_off(gating)
        highest = {post: max(views for other, views in seen if other == post) for post, _ in seen}
        expected = {(post, m) for post, views in highest.items() for m in (1000, 2000) if m <= views}
        made = {(post, m) for post in ("p0", "p1", "p2") for m, _ in await decided(records, post)}
        told_of = [(event.key, event.payload["milestone"]) for event in await told(records, outbox.GATE)]
        assert made == expected
        assert sorted(told_of) == sorted(expected)
        assert [m for post in highest for p, m in told_of if p == post] == [
            m for post in highest for m in (1000, 2000) if (post, m) in expected
        ]
        await records.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))
