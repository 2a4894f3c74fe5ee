"""The live recall: unbiased by the weights of the audit sample, told as a metric and, once a day, as an alarm."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from deployments.review_gate.values import NO_HISTORY, GateDecision
from serve_app.gate_settings import GatingSettings, RecallSettings
from serve_app.gate_worker import GateWorker
from serve_app.recall import Kinds, Recall, Seen, Unseen, audit_share, recall_of
from serve_app.records import Records, outbox
from serve_app.records.bulk import insert_all
from serve_app.records.gate_rows import values
from serve_app.records.gate_tables import GateDecisionRow, OutcomeRow
from serve_app.records.gate_values import Decided, Draw, GatedPost, GateJob
from serve_app.records.outcomes import SCHEMA
from tests.records.conclusions import told
from tests.records.gating import CREATED, REACHED, add_posts, add_views, gating_of, post_of, reviewed, work_off


class Net:
    """Rows as the gate and the moderators leave them, many at once."""

    def __init__(self) -> None:
        self.decisions: list[dict[str, Any]] = []
        self.outcomes: list[dict[str, Any]] = []

    def decide(self, post_id: str, milestone: int, action: Any, audit: bool = False, p: float = 1.0, **of: Any) -> None:
        given: dict[str, Any] = {
            "post_id": post_id,
            "revision": 0,
            "author_id": "a1",
            "language": "hi-IN",
            "content_type": "text",
            "created_at": CREATED,
            "nsfw_score": 0.2,
            "category_scores": {"hate": 0.1},
            "verdict_action": "allow",
            "policy_version": "1",
        }
        decision = GateDecision(action, 0.2, 0.5, "*", "because", "score", "1", "c")
        job = GateJob(post_id, milestone, milestone, REACHED, 1)
        made = Decided(job, GatedPost(**(given | of)), NO_HISTORY, decision, Draw(audit, p))
        self.decisions.append(values(made, datetime.now(UTC)))

    def judge(self, post_id: str, outcome: str, sources: str = "gate") -> None:
        self.outcomes.append(
            {
                "post_id": post_id,
                "revision": 0,
                "review_id": post_id[:32],
                "author_id": "a1",
                "language": "hi-IN",
                "content_type": "text",
                "post_created_at": CREATED,
                "nsfw_score": 0.2,
                "milestone": 1000,
                "sources": sources,
                "outcome": outcome,
                "category": None,
                "reviewer": "m1",
                "decided_at": datetime.now(UTC),
                "weight": 1.0,
            }
        )

    async def store(self, records: Records) -> None:
        def work(session: Any) -> None:
            insert_all(session, GateDecisionRow, self.decisions)
            insert_all(session, OutcomeRow, self.outcomes)

        await records._database.write(work)


def world(seed: int, posts: int = 20_000, p: float = 0.1) -> tuple[Net, float]:
    """The first net misses a tenth of the bad ones; half of the posts never reach the second. With the true recall."""
    chance, net = random.Random(seed), Net()
    found = missed = 0
    for n in range(posts):
        post, bad = f"p{n}", chance.random() < 0.05
        outcome = "discard" if bad else "ok"
        if chance.random() < (0.9 if bad else 0.2):
            found += bad
            net.decide(post, 1000, "review")
            net.judge(post, outcome)
            continue
        missed += bad
        first = chance.random() < p
        net.decide(post, 1000, "skip", first, p)
        caught = second = False
        if chance.random() < 0.5:
            caught = chance.random() < (0.5 if bad else 0.1)
            second = not caught and chance.random() < p
            net.decide(post, 2000, "review" if caught else "skip", second, 1.0 if caught else p)
        if first or second or caught:
            net.judge(post, outcome)
    return net, found / (found + missed)


async def together(records: Records) -> Recall:
    kinds = await records.recall.kinds(datetime.now(UTC) - timedelta(days=30))
    return recall_of(sum(kinds.values(), Kinds()), 0.95)


class TestEstimate:
    async def test_it_finds_what_the_net_misses(self, records: Records) -> None:
        net, true = world(seed=1)
        await net.store(records)
        found = await together(records)
        assert found.estimate is not None
        assert found.lower is not None
        assert found.upper is not None
        assert found.lower <= true <= found.upper
        assert found.upper - found.lower < 0.12
        assert found.kinds.unseen.posts > 0 < found.kinds.caught.posts

    def test_the_interval_holds_the_truth_as_often_as_it_says(self) -> None:
        chance, held, worlds = random.Random(5), 0, 400
        for _ in range(worlds):
            bad, posts, p = 60, 4000, 0.05
            drawn = [(n < bad, chance.random() < p) for n in range(posts)]
            judged = [is_bad for is_bad, audit in drawn if audit]
            w = 1 / p
            unseen = Unseen(
                posts, len(judged), len(judged), sum(judged), w * len(judged), w * w * len(judged), w * sum(judged)
            )
            found = recall_of(Kinds(Seen(900, 900, 500), Seen(), unseen), 0.95)
            held += found.lower <= 500 / 560 <= found.upper  # type: ignore[operator]
        assert held / worlds >= 0.95 - 2 * (0.05 * 0.95 / worlds) ** 0.5

    async def test_by_language(self, records: Records) -> None:
        net = Net()
        for post, language in (("a", "hi"), ("b", "hi-Latn"), ("c", None), ("d", "ta")):
            net.decide(post, 1000, "review", language=language)
            net.judge(post, "discard")
        await net.store(records)
        kinds = await records.recall.kinds(datetime.now(UTC) - timedelta(days=1))
        assert {language: found.reviewed.bad for language, found in kinds.items()} == {"hi": 2, "": 1, "ta": 1}

    async def test_open_reviews_count_as_those_of_their_kind(self, records: Records) -> None:
        net = Net()
        for n in range(10):
            net.decide(f"p{n}", 1000, "review")
            if n < 5:
                net.judge(f"p{n}", "discard" if n < 2 else "ok")
        await net.store(records)
        found = await together(records)
        assert (found.kinds.reviewed.bad_estimate, found.kinds.open_reviews) == (4.0, 5)

    def test_nothing_known_is_no_number_and_no_audit_is_no_certainty(self) -> None:
        assert recall_of(Kinds(), 0.95).estimate is None
        blind = recall_of(Kinds(Seen(10, 10, 10), Seen(), Unseen(posts=90)), 0.95)
        assert (blind.lower, blind.upper) == (0.1, 1.0)

    @pytest.mark.parametrize("half_width", [0.01, 0.02, 0.05])
    def test_the_share_gives_the_half_width(self, half_width: float) -> None:
        bad, skipped, recall = 4000, 400_000, 0.95
        p = audit_share(bad, recall, half_width, 0.95)
        n, missed = round(p * skipped), round((1 - recall) * bad)
        hits = n * missed / skipped
        unseen = Unseen(skipped, n, n, round(hits), n / p, n / p**2, hits / p)
        found = recall_of(Kinds(Seen(3800, 3800, 3800), Seen(), unseen), 0.95)
        assert found.lower is not None
        assert found.upper is not None
        assert half_width * 0.8 <= (found.upper - found.lower) / 2 <= half_width * 1.5

    def test_the_share_falls_with_data_and_rises_with_ambition(self) -> None:
        assert audit_share(10_000, 0.95, 0.02, 0.95) < audit_share(1000, 0.95, 0.02, 0.95) < 1
        assert audit_share(1000, 0.95, 0.01, 0.95) > audit_share(1000, 0.95, 0.02, 0.95)
        assert audit_share(0, 0.95, 0.02, 0.95) == 1.0


class Noted:
    def __init__(self) -> None:
        self.recalls: dict[str, tuple[float, float, float]] = {}

    def recall(self, language: str, estimate: float, lower: float, upper: float) -> None:
        self.recalls[language] = (estimate, lower, upper)

    def __getattr__(self, _name: str) -> Any:
        return lambda *_: None


class TestAlarm:
    async def test_low_recall_is_told_once_a_day(self, records: Records) -> None:
        net, _ = world(seed=2, posts=5000)
        await net.store(records)
        noted: Any = Noted()
        worker = GateWorker(records, gating_of(records), GatingSettings(), noted)
        await worker.look()
        await worker.look()
        (event,) = await told(records, outbox.GATE)
        assert (event.type, event.payload["target"]) == ("parakh.gate.recall_low", 0.95)
        assert event.payload["lower"] < 0.95
        assert set(noted.recalls) == {"*", "hi"}
        assert await records.gate.audit_share() is not None

    async def test_not_where_it_holds_nor_on_thin_data(self, records: Records) -> None:
        net, _ = world(seed=2, posts=5000)
        await net.store(records)
        easy = GatingSettings(recall=RecallSettings(target=0.5))
        thin = GatingSettings(recall=RecallSettings(enough_bad=10**6))
        for settings in (easy, thin):
            await GateWorker(records, gating_of(records), settings).look()
        assert await told(records, outbox.GATE) == []


async def table_of(records: Records, rows: int = 10_000) -> list[dict[str, Any]]:
    batches = [batch async for batch in records.decision_table.batches(rows)]
    return pa.Table.from_batches(batches, schema=SCHEMA).to_pylist()  # type: ignore[no-any-return]


class TestDecisionTable:
    async def test_a_row_for_each_judged_decision_with_its_weight(self, records: Records) -> None:
        net = Net()
        net.decide("audited", 1000, "skip", True, 0.1)
        net.judge("audited", "discard", "audit")
        net.decide("never seen", 1000, "skip", False, 0.1)
        net.decide("reviewed", 1000, "review")
        net.judge("reviewed", "ok")
        net.decide("caught", 1000, "skip", True, 0.1)
        net.decide("caught", 2000, "review")
        net.judge("caught", "discard", "audit gate")
        net.decide("twice", 1000, "skip", True, 0.1)
        net.decide("twice", 2000, "skip", False, 0.2)
        net.judge("twice", "ok", "audit")
        net.decide("flagged", 1000, "skip", False, 0.1)
        net.judge("flagged", "discard", "stream")
        await net.store(records)
        rows = await table_of(records)
        assert {(row["post_id"], row["milestone"]): row["weight"] for row in rows} == {
            ("audited", 1000): pytest.approx(10),
            ("reviewed", 1000): 1,
            ("caught", 1000): 1,
            ("caught", 2000): 1,
            ("twice", 1000): pytest.approx(1 / 0.28),
            ("twice", 2000): pytest.approx(1 / 0.28),
        }
        first = rows[0]
        assert (first["post_id"], first["outcome"], first["hate"], first["author_posts"]) == (
            "audited",
            True,
            0.1,
            None,
        )
        assert first["reached_at"] == REACHED

    @pytest.mark.parametrize("rows", [1, 2, 3, 7])
    async def test_pages_never_split_a_post(self, records: Records, rows: int) -> None:
        net = Net()
        for n in range(6):
            net.decide(f"p{n}", 1000, "skip", True, 0.1)
            net.decide(f"p{n}", 2000, "review")
            net.judge(f"p{n}", "ok")
        await net.store(records)
        assert [row["weight"] for row in await table_of(records, rows)] == [1.0] * 12

    async def test_weighted_recall_of_the_table_is_that_of_the_world(self, records: Records) -> None:
        net, true = world(seed=3)
        await net.store(records)
        first = [row for row in await table_of(records) if row["milestone"] == 1000 and row["outcome"]]
        reviewed_first = {
            row["post_id"] for row in net.decisions if row["action"] == "review" and row["milestone"] == 1000
        }
        bad = sum(row["weight"] for row in first)
        assert sum(row["weight"] for row in first if row["post_id"] in reviewed_first) / bad == pytest.approx(
            true, abs=0.03
        )

    async def test_what_came_by_the_true_way(self, records: Records) -> None:
        await add_posts(records, post_of("p1", 0.9), post_of("p2", 0.1), post_of("p3", 0.1, author_id="a2"))
        await add_views(records, 1000, "p1", "p2", "p3")
        await work_off(gating_of(records, share=1.0))
        await reviewed(records, "p1")
        await reviewed(records, "p3", "ok")
        rows = {row["post_id"]: row for row in await table_of(records)}
        assert set(rows) == {"p1", "p3"}
        assert (rows["p1"]["outcome"], rows["p1"]["author_posts"], rows["p1"]["author_discards"]) == (True, 1, 0)
        assert (rows["p3"]["outcome"], rows["p3"]["author_posts"]) == (False, None)
