"""What the gate decides, and how it says why."""

from __future__ import annotations

import dataclasses
import math
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.review_gate.gate import ReviewGate
from deployments.review_gate.values import AuthorHistory, GateDecision
from deployments.runtime.errors import InvalidInput
from tests.review_gate.posts import NOW, OneThreshold, post


def gate(threshold: float | None = 0.25) -> ReviewGate:
    return ReviewGate(OneThreshold(threshold), clock=lambda: NOW)


def test_without_a_calibration_every_post_is_reviewed_and_the_reason_says_so() -> None:
    decision = ReviewGate(clock=lambda: NOW).decide(post(nsfw_score=0.0))
    assert (decision.action, decision.threshold, decision.calibration) == ("review", None, "none")
    assert "no calibrated threshold is in force" in decision.reason


def test_a_stratum_without_a_threshold_is_reviewed() -> None:
    decision = gate(None).decide(post(nsfw_score=0.0))
    assert (decision.action, decision.threshold) == ("review", None)
    assert "no threshold is known to keep the recall" in decision.reason


def test_the_threshold_itself_is_reviewed() -> None:
    assert gate(0.25).decide(post(nsfw_score=0.25)).action == "review"
    assert gate(0.25).decide(post(nsfw_score=math.nextafter(0.25, 0))).action == "skip"


def test_a_decision_names_what_was_held_against_what() -> None:
    decision = gate().decide(post(nsfw_score=0.3))
    assert decision.reason == "Score 0.3 is at or above *'s threshold of 0.25."
    assert (decision.model, decision.stratum, decision.calibration) == ("score", "*", "calibration-1")


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0, 1))
def test_a_higher_score_is_never_skipped_where_a_lower_one_is_reviewed(scores: list[float], threshold: float) -> None:
    decided = gate(threshold).decide_many([post(nsfw_score=score) for score in sorted(scores)])
    reviewed = [decision.action == "review" for decision in decided if isinstance(decision, GateDecision)]
    assert reviewed == sorted(reviewed)


@given(st.permutations(range(6)))
def test_the_order_of_a_batch_changes_no_decision(order: list[int]) -> None:
    posts = [post(post_id=str(i), nsfw_score=i / 10) for i in range(6)]
    alone = [gate().decide(p) for p in posts]
    assert gate().decide_many([posts[i] for i in order]) == [alone[i] for i in order]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("nsfw_score", {"nsfw_score": 1.01}),
        ("nsfw_score", {"nsfw_score": -0.01}),
        ("nsfw_score", {"nsfw_score": math.nan}),
        ("category_scores.hate", {"category_scores": {"hate": 2.0}}),
        ("category_scores", {"category_scores": {"spam": 0.5}}),
        ("milestone", {"milestone": 0}),
        ("views", {"views": -1}),
        ("views", {"views": 999}),
        ("created_at", {"created_at": datetime(2025, 5, 1)}),
        ("reached_at", {"reached_at": datetime(2025, 5, 1)}),
        ("reached_at", {"reached_at": NOW + timedelta(hours=1)}),
        ("reached_at", {"reached_at": NOW - timedelta(days=30)}),
        ("history", {"history": AuthorHistory("ok", -1, 0, 180)}),
        ("history", {"history": AuthorHistory("stale", None, 0, 180)}),
    ],
)
def test_what_cannot_be_is_refused_with_the_fields_name(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        gate().decide(post(**changes))
    assert caught.value.param == field
    assert str(caught.value).startswith(field.split(".")[0])


def test_a_clock_slightly_ahead_is_not_the_future() -> None:
    assert gate().decide(post(reached_at=NOW + timedelta(seconds=30))).action == "review"


def test_one_bad_post_of_a_batch_changes_nothing_for_the_others() -> None:
    good, bad = post(), post(views=-1)
    decided = gate().decide_many([good, bad, good])
    assert isinstance(decided[1], InvalidInput)
    assert decided[0] == decided[2] == gate().decide(good)


def test_decisions_are_plain_values() -> None:
    assert dataclasses.asdict(gate().decide(post()))["action"] == "review"
