"""What the tree is held against the score by, and how good its probabilities are."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from deployments.review_gate.compare import as_lines, compare, reviewed
from deployments.review_gate.quality import quality, saved_at_recall
from tests.review_gate.decisions import table as judged
from tests.review_gate.posts import OneThreshold


def test_the_same_scores_gain_nothing_and_nothing_is_saved_without_a_threshold() -> None:
    table = judged(2000)
    same = compare((table, OneThreshold(0.3)), (table, OneThreshold(0.3)), resamples=50)
    assert (same.first_net_gain.low, same.first_net_gain.value, same.first_net_gain.high) == (0, 0, 0)
    none = compare((table, OneThreshold(None)), (table, OneThreshold(2.0)), resamples=50)
    assert (none.score_only.first_net.value, none.score_only.first_recall.value) == (0, 1)
    assert (none.tree.both_nets.value, none.tree.both_recall.value) == (1, 0)


def test_shares_are_of_posts_and_a_second_net_only_adds_reviews() -> None:
    table = judged(2000)
    side = compare((table, OneThreshold(0.3)), (table, OneThreshold(0.5)), resamples=200)
    first = table.milestones == 1000
    assert side.posts == first.sum() == 2000
    assert side.score_only.first_net.value == pytest.approx((table.scores[first] < 0.3).mean(), abs=1e-6)
    bad = first & table.outcomes
    assert side.tree.first_recall.value == pytest.approx((table.scores[bad] >= 0.5).mean(), abs=1e-6)
    assert side.tree.both_nets.value <= side.tree.first_net.value
    assert side.tree.first_net.low < side.tree.first_net.value < side.tree.first_net.high
    assert side.first_net_gain.low > 0
    assert len(as_lines(side.as_json())) == 4


def test_the_order_of_rows_changes_no_figure() -> None:
    table = judged(1000)
    turned = table.select(np.arange(len(table))[::-1])
    sides = [compare((t, OneThreshold(0.3)), (t, OneThreshold(0.4)), resamples=20) for t in (table, turned)]
    assert sides[0].tree.both_nets.value == pytest.approx(sides[1].tree.both_nets.value)
    assert (reviewed(turned, OneThreshold(0.3)) == reviewed(table, OneThreshold(0.3))[::-1]).all()


def test_quality_is_what_scikit_learn_says() -> None:
    random = np.random.default_rng(0)
    said, weight = random.random(3000).round(2), random.integers(1, 5, 3000).astype(float)
    outcome = random.random(3000) < said
    found = quality(said, outcome, weight)
    assert found["auc"] == pytest.approx(roc_auc_score(outcome, said, sample_weight=weight))
    assert found["brier"] == pytest.approx(brier_score_loss(outcome, said, sample_weight=weight))
    assert found["log_loss"] == pytest.approx(
        log_loss(outcome, np.clip(said, 1e-12, 1 - 1e-12), sample_weight=weight), rel=1e-6
    )
    assert found["calibration_error"] < 0.03
    assert quality(said**3, outcome, weight)["calibration_error"] > 0.15


def test_what_is_saved_at_a_recall_lies_below_its_threshold() -> None:
    scores, outcome = np.arange(10) / 10, np.array([0, 0, 1, 0, 0, 1, 0, 1, 0, 1], dtype=bool)
    weight = np.ones(10)
    assert saved_at_recall(scores, outcome, weight, 1.0) == 0.2
    assert saved_at_recall(scores, outcome, weight, 0.75) == 0.5
    heavy = np.where(scores == 0.2, 9.0, 1.0)  # the lowest bad post stands for nine: it cannot be missed
    assert saved_at_recall(scores, outcome, heavy, 0.75) == pytest.approx(2 / 18)
