"""Recall's lower bound, and the threshold it allows: exact where posts are independent, honest where authors repeat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom  # type: ignore[import-untyped]

from deployments.review_gate.bounds import (
    Method,
    Positives,
    clopper_pearson_lower,
    design_effect,
    positives,
    positives_needed,
    recall_bound,
)

shares = st.floats(0.01, 0.99)


def sample(
    rng: np.random.Generator, authors: int, most_posts: int = 1, author_sd: float = 0.0, weighted: bool = False
) -> Positives:
    posts = rng.integers(1, most_posts + 1, authors)
    codes = np.repeat(np.arange(authors), posts)
    scores = rng.normal(0, 1, len(codes)) + np.repeat(rng.normal(0, author_sd, authors), posts)
    weights = rng.choice([1.0, 5.0], len(codes)) if weighted else np.ones(len(codes))
    return positives(1 / (1 + np.exp(-scores)), codes, weights)


def true_recall(population: np.ndarray, threshold: float) -> float:
    """`population`: scores of all bad posts there are, sorted."""
    return 1 - float(np.searchsorted(population, threshold)) / len(population)


@given(n=st.integers(1, 500), part=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_clopper_pearson_is_the_share_at_which_the_hits_become_improbable(
    n: int, part: float, confidence: float
) -> None:
    hits = round(part * n)
    bound = float(clopper_pearson_lower(hits, n, confidence))

    if hits == 0:
        assert bound == 0
        return
    assert bound == pytest.approx(beta.ppf(1 - confidence, hits, n - hits + 1), rel=1e-9)
    assert binom.sf(hits - 1, n, bound) == pytest.approx(1 - confidence, rel=1e-6)


@pytest.mark.parametrize(
    ("target", "confidence", "needed"), [(0.95, 0.95, 59), (0.9, 0.9, 22), (0.99, 0.95, 299), (0.5, 0.5, 1)]
)
def test_positives_needed_are_those_of_which_none_may_be_missed(target: float, confidence: float, needed: int) -> None:
    assert positives_needed(target, confidence) == needed
    assert clopper_pearson_lower(needed, needed, confidence) >= target - 1e-12
    assert clopper_pearson_lower(needed - 1, needed - 1, confidence) < target


def test_fifty_nine_bad_posts_give_the_smallest_score_and_fifty_eight_give_none() -> None:
    bad = sample(np.random.default_rng(0), 59)
    fewer = sample(np.random.default_rng(0), 58)

    assert recall_bound(bad, 0.95, "exact").threshold(0.95) == bad.scores[0]
    assert recall_bound(fewer, 0.95, "exact").threshold(0.95) is None


@pytest.mark.parametrize("method", ["exact", "bootstrap"])
@given(seed=st.integers(0, 10_000), low=shares, high=shares)
@settings(max_examples=25, deadline=None)
def test_a_higher_target_never_gives_a_higher_threshold(method: Method, seed: int, low: float, high: float) -> None:
    bound = recall_bound(sample(np.random.default_rng(seed), 120, 4, 1.0), 0.95, method, 200)
    easier, harder = (bound.threshold(target) for target in sorted((low, high)))

    assert (harder or 0) <= (easier or 0)


@pytest.mark.parametrize("method", ["exact", "bootstrap"])
@given(seed=st.integers(0, 10_000), low=st.floats(0.5, 0.99), high=st.floats(0.5, 0.99))
@settings(max_examples=25, deadline=None)
def test_more_confidence_never_gives_a_higher_threshold(method: Method, seed: int, low: float, high: float) -> None:
    bad = sample(np.random.default_rng(seed), 120, 4, 1.0, weighted=method == "bootstrap")
    bolder, surer = (recall_bound(bad, c, method, 200).threshold(0.9) for c in sorted((low, high)))

    assert (surer or 0) <= (bolder or 0)


@pytest.mark.parametrize("method", ["exact", "bootstrap"])
def test_the_bound_falls_with_the_threshold_and_stays_below_the_estimate(method: Method) -> None:
    bound = recall_bound(sample(np.random.default_rng(3), 300, 5, 1.0), 0.95, method)
    thresholds = np.linspace(0, 1, 500)

    assert (np.diff(bound.at(thresholds)) <= 1e-12).all()
    assert (bound.at(thresholds) <= bound.recall_at(thresholds) + 1e-6).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bad = sample(rng, 80, 4, 1.0, weighted=True)
    order = rng.permutation(bad.count)
    shuffled = positives(bad.scores[order], bad.authors[order], bad.weights[order])

    assert recall_bound(shuffled, 0.95, "bootstrap", 200).threshold(0.9) == (
        recall_bound(bad, 0.95, "bootstrap", 200).threshold(0.9)
    )


def test_equal_scores_are_kept_or_missed_together() -> None:
    bad = positives(np.repeat([0.2, 0.8], [3, 97]), np.arange(100), np.ones(100))

    assert recall_bound(bad, 0.95, "exact").threshold(0.9) == 0.8
    assert recall_bound(bad, 0.95, "exact").threshold(0.95) == 0.2


def test_one_post_an_author_has_no_design_effect_and_alike_posts_a_large_one() -> None:
    rng = np.random.default_rng(0)

    assert design_effect(sample(rng, 2000)) < 1.1
    assert design_effect(sample(rng, 400, 9, author_sd=3.0)) > 2


@pytest.mark.parametrize(
    ("method", "most_posts", "author_sd", "authors"),
    [("exact", 1, 0.0, 59), ("exact", 1, 0.0, 200), ("bootstrap", 8, 1.0, 60), ("bootstrap", 8, 1.0, 250)],
)
def test_true_recall_holds_the_target_as_often_as_claimed(
    method: Method, most_posts: int, author_sd: float, authors: int
) -> None:
    """The guarantee itself. Worlds are authors drawn from a population whose recall is known; 2 standard errors."""
    rng, worlds = np.random.default_rng(11), 500
    population = np.sort(sample(rng, 100_000, most_posts, author_sd).scores)
    held = 0
    for world in range(worlds):
        bad = sample(rng, authors, most_posts, author_sd)
        threshold = recall_bound(bad, 0.95, method, 200, seed=world).threshold(0.95)
        held += threshold is None or true_recall(population, threshold) >= 0.95

    assert held / worlds >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / worlds)


def test_independence_wrongly_assumed_and_the_bootstrap_alone_both_break_the_guarantee() -> None:
    """Why there are two bounds: each alone holds the target less often than it says."""
    rng, worlds = np.random.default_rng(5), 300
    population = np.sort(sample(rng, 100_000, 8, 1.5).scores)
    as_if_independent = bootstrap_alone = 0
    for world in range(worlds):
        bad = sample(rng, 60, 8, 1.5)
        naive = recall_bound(bad, 0.95, "exact").threshold(0.95)
        bound = recall_bound(bad, 0.95, "bootstrap", 200, seed=world)
        resampled = bound.resampled[np.searchsorted(bound.grid, np.arange(bad.count))]
        alone = bad.scores[np.flatnonzero(resampled >= 0.95)[-1]]
        as_if_independent += naive is None or true_recall(population, naive) >= 0.95
        bootstrap_alone += true_recall(population, float(alone)) >= 0.95

    assert as_if_independent / worlds < 0.93
    assert bootstrap_alone / worlds < 0.93
