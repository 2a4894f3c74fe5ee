"""Generated histories: the same for the same seed, and an author's past is what had happened by then."""

from __future__ import annotations

import numpy as np

from benchmarks.gate.recall_bound import population
from benchmarks.gate.worlds import DAY, HOUR, START, World, author_history, history
from deployments.review_gate.table import from_arrow


def test_a_seed_makes_one_history() -> None:
    assert history(World(), 50, seed=3).equals(history(World(), 50, seed=3))
    assert not history(World(), 50, seed=3).equals(history(World(), 50, seed=4))


def test_a_history_is_a_table_that_the_gate_takes() -> None:
    table = from_arrow(history(World(), 300, seed=0))

    assert set(table.milestones.tolist()) == {1000, 2000}
    assert 0.005 < table.outcomes.mean() < 0.1
    assert table.scores[table.outcomes].mean() > table.scores[~table.outcomes].mean()


def test_an_authors_past_is_counted_at_the_windows_edges() -> None:
    author = np.array([1, 1, 1, 2])
    created = START + np.array([0, 180, 181, 181]) * DAY
    outcome = np.array([True, True, False, True])
    at = created + HOUR

    found = author_history(author, created, at, outcome, at)

    # The third post: the first is 181 days old, the second was discarded an hour after day 180.
    assert found["author_posts"].tolist() == [0, 0, 1, 0]
    assert found["author_discards"].tolist() == [0, 1, 1, 0]


def test_an_authors_past_equals_counting_by_hand() -> None:
    rng = np.random.default_rng(0)
    author, outcome = rng.integers(0, 5, 200), rng.random(200) < 0.3
    created = START + rng.integers(0, 400 * 24, 200) * HOUR
    at = created + rng.integers(1, 100, 200) * HOUR

    found = author_history(author, created, at, outcome, at)

    for row in range(200):
        mine = author == author[row]
        since = at[row] - 180 * DAY
        posts = (mine & (created >= since) & (created < at[row])).sum() - 1
        assert found["author_posts"][row] == posts
        assert found["author_discards"][row] == (mine & outcome & (at >= since) & (at < at[row])).sum()


def test_a_population_knows_its_recall() -> None:
    whole = population(World(), authors=3000)
    cells = tuple(whole.true_scores)

    assert whole.recall(cells, 0.0) == 1
    assert 0 < whole.recall(cells, 0.5) < whole.recall(cells, 0.1) < 1
    assert len(np.unique(whole.sample(40, np.random.default_rng(0)).authors.codes)) == 40
