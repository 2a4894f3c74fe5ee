"""Past and future stay apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.review_gate.spans import SPANS, described, split_by_time
from deployments.runtime.errors import InvalidInput


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 50)), min_size=8, max_size=80))
def test_no_span_reaches_into_the_next_and_no_post_is_in_two(rows: list[tuple[int, int]]) -> None:
    posts, times = np.array([post for post, _ in rows]), np.array([t for _, t in rows], dtype="datetime64[us]")
    span = split_by_time(times, posts)
    for earlier in range(len(SPANS)):
        for later in range(earlier + 1, len(SPANS)):
            if (span == earlier).any() and (span == later).any():
                assert times[span == earlier].max() < times[span == later].min()
                assert not set(posts[span == earlier]) & set(posts[span == later])


def test_a_post_that_reaches_its_second_milestone_in_a_later_span_keeps_its_first_row() -> None:
    times = np.arange(10).astype("datetime64[h]").astype("datetime64[us]")
    posts = np.array(["a", "b", "c", "d", "e", "f", "g", "h", "i", "a"])
    span = split_by_time(times, posts, (0.5, 0.1, 0.2, 0.2))
    assert span.tolist() == [0, 0, 0, 0, 0, 1, 2, 2, 3, -1]


def test_the_order_of_rows_changes_nothing() -> None:
    times = np.array([5, 1, 4, 2, 3, 9, 8, 7], dtype="datetime64[us]")
    posts = np.arange(8)
    order = np.random.default_rng(0).permutation(8)
    assert (split_by_time(times, posts)[order] == split_by_time(times[order], posts[order])).all()


def test_a_span_without_one_of_the_outcomes_is_refused_by_name() -> None:
    times, posts = np.arange(20).astype("datetime64[us]"), np.arange(20)
    with pytest.raises(InvalidInput, match="The validation span holds 2 decisions and 0 discards"):
        described(split_by_time(times, posts), times, posts, posts < 5)
