"""The tree: what it promises of its numbers, and that training and serving see the same."""

from __future__ import annotations

from datetime import UTC

import numpy as np
import pytest

from deployments.review_gate.features import FEATURES, facts_of, facts_of_table, matrix
from deployments.review_gate.spans import SPANS
from deployments.review_gate.table import DecisionTable
from deployments.review_gate.train import Boosted, TreeSettings, boost, fit_platt
from deployments.review_gate.trees import Trees, sigmoid
from deployments.review_gate.values import NO_HISTORY, AuthorHistory, GateInput
from deployments.runtime.errors import WrongWeights
from tests.review_gate.decisions import table as judged
from tests.review_gate.posts import post


@pytest.fixture(scope="module")
def table() -> DecisionTable:
    return judged(6000)


@pytest.fixture(scope="module")
def boosted(table: DecisionTable) -> Boosted:
    return boost(table, TreeSettings(leaf_rows=40))


@pytest.fixture(scope="module")
def trees(boosted: Boosted) -> Trees:
    return Trees(boosted.text, boosted.levels, boosted.base, boosted.platt, name="gate-tree", version="1")


def posts_of(table: DecisionTable, rows: np.ndarray) -> list[GateInput]:
    """Rows of a table as the posts that would have reached the gate."""
    assert table.author_posts is not None
    assert table.author_discards is not None
    languages, types = table.languages.values(), table.content_types.values()
    return [
        GateInput(
            post_id=str(table.post_ids[i]),
            milestone=int(table.milestones[i]),
            views=int(table.views[i]),
            nsfw_score=float(table.scores[i]),
            category_scores={name: float(values[i]) for name, values in table.category_scores.items()},
            language=languages[i] or None,
            content_type=types[i],
            created_at=table.created_at[i].item().replace(tzinfo=UTC),
            reached_at=table.reached_at[i].item().replace(tzinfo=UTC),
            history=NO_HISTORY
            if np.isnan(table.author_posts[i])
            else AuthorHistory("ok", int(table.author_posts[i]), int(table.author_discards[i]), 180),
        )
        for i in rows
    ]


def test_a_row_of_the_table_and_the_post_at_the_gate_have_the_same_features(
    table: DecisionTable, boosted: Boosted, trees: Trees
) -> None:
    rows = np.arange(0, len(table), 7)
    served, trained = facts_of(posts_of(table, rows)), facts_of_table(table).take(rows)
    np.testing.assert_array_equal(matrix(served, boosted.levels), matrix(trained, boosted.levels))
    np.testing.assert_array_equal(trees.scores(served), trees.scores(trained))


def test_a_higher_score_never_lowers_the_probability(trees: Trees) -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        one = post(
            language=random.choice(["hi", "hi-Latn", "en", "zz"]),
            content_type=random.choice(["video", "image", "text", "gif"]),
            category_scores={"hate": random.random()} if random.random() < 0.5 else {},
            history=NO_HISTORY if random.random() < 0.3 else AuthorHistory("stale", 40, int(random.integers(40)), 180),
        )
        rising = facts_of([post_with(one, score) for score in np.linspace(0, 1, 101)])
        assert (np.diff(trees.scores(rising)) >= 0).all()


def post_with(one: GateInput, score: float) -> GateInput:
    return post(**{**vars(one), "nsfw_score": float(score)})


def test_more_discards_never_lower_the_probability(trees: Trees) -> None:
    rising = facts_of([post(history=AuthorHistory("ok", 50, n, 180)) for n in range(51)])
    assert (np.diff(trees.scores(rising)) >= 0).all()


def test_the_author_matters_and_an_unknown_one_is_no_innocent_one(trees: Trees) -> None:
    clean, bad, unknown = trees.scores(
        facts_of([post(history=AuthorHistory("ok", 60, n, 180)) for n in (0, 30)] + [post(history=NO_HISTORY)])
    )
    assert clean < unknown < bad


def test_an_unknown_author_is_no_innocent_one_though_training_knew_them_all() -> None:
    boosted = boost(judged(6000, known=1.0), TreeSettings(leaf_rows=40))
    trees = Trees(boosted.text, boosted.levels, boosted.base, boosted.platt, name="t", version="1")
    histories = [AuthorHistory("ok", 60, 0, 180), NO_HISTORY, AuthorHistory("ok", 60, 30, 180)]
    clean, unknown, bad = trees.scores(facts_of([post(history=history) for history in histories]))
    assert clean < unknown < bad
    fresh, stale = trees.scores(
        facts_of([post(history=AuthorHistory(status, 60, 30, 180)) for status in ("ok", "stale")])
    )
    assert abs(fresh - stale) < 0.1 * fresh


def test_the_order_of_a_batch_changes_no_score(table: DecisionTable, trees: Trees) -> None:
    facts, order = facts_of_table(table), np.random.default_rng(1).permutation(len(table))
    np.testing.assert_array_equal(trees.scores(facts.take(order)), trees.scores(facts)[order])
    np.testing.assert_array_equal(trees.scores(facts.take(np.array([5]))), trees.scores(facts)[5:6])


def test_contributions_add_up_to_the_log_odds_of_the_score(table: DecisionTable, trees: Trees) -> None:
    facts = facts_of_table(table).take(np.arange(20))
    probability = trees.scores(facts)
    log_odds = np.log(probability / (1 - probability))
    sums = np.array([sum(c.log_odds for c in told) for told in trees.contributions(facts)])
    assert np.ptp(log_odds - sums) < 1e-9  # one constant for all: the expected value


def test_reasons_come_largest_first_and_an_author_is_one_reason(trees: Trees) -> None:
    told = trees.contributions(facts_of([post(history=AuthorHistory("ok", 20, 12, 180))]))[0]
    sizes = [abs(c.log_odds) for c in told]
    assert sizes == sorted(sizes, reverse=True)
    assert "12/20" in {c.value for c in told if c.feature == "author_history"}
    assert not {c.feature for c in told} & {"author_posts", "author_discards", "author_discard_rate"}


def test_training_twice_gives_the_same_bytes(table: DecisionTable, boosted: Boosted) -> None:
    again = boost(table, TreeSettings(leaf_rows=40))
    assert (again.text, again.platt) == (boosted.text, boosted.platt)


def test_weights_are_honoured(table: DecisionTable) -> None:
    settings = TreeSettings(leaf_rows=40, max_trees=30)
    heavy = judged(6000)
    heavy.weights[heavy.outcomes] = 10.0
    plain, weighted = (boost(given, settings) for given in (table, heavy))
    facts = facts_of_table(table).take(plain.span == SPANS.index("test"))
    means = [
        Trees(b.text, b.levels, b.base, b.platt, name="t", version="1").scores(facts).mean() for b in (plain, weighted)
    ]
    assert means[1] > 2 * means[0]


def test_probabilities_of_the_future_are_about_right(table: DecisionTable, boosted: Boosted, trees: Trees) -> None:
    test = boosted.span == SPANS.index("test")
    said = trees.scores(facts_of_table(table).take(test)).mean()
    assert said == pytest.approx(table.outcomes[test].mean(), rel=0.25)


def test_the_platt_map_finds_the_slope_it_is_made_of() -> None:
    random = np.random.default_rng(0)
    log_odds = random.normal(0, 2, 50_000)
    outcome = random.random(50_000) < sigmoid(0.5 * log_odds - 1)
    found = fit_platt(log_odds, outcome, np.ones(50_000))
    assert (found.slope, found.intercept) == pytest.approx((0.5, -1), abs=0.05)


def test_the_platt_map_never_turns_the_order_around() -> None:
    log_odds = np.linspace(-3, 3, 1000)
    found = fit_platt(log_odds, log_odds < 0, np.ones(1000))
    assert (found.slope, found.intercept) == (1, 0)


def test_another_models_text_is_refused(boosted: Boosted) -> None:
    other = boosted.text.replace(f"feature_names={' '.join(FEATURES)}", f"feature_names={' '.join(FEATURES[::-1])}")
    with pytest.raises(WrongWeights, match="other features"):
        Trees(other, boosted.levels, boosted.base, boosted.platt, name="t", version="1")
    with pytest.raises(WrongWeights, match="no model"):
        Trees("nonsense", boosted.levels, boosted.base, boosted.platt, name="t", version="1")
