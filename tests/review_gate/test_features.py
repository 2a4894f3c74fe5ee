"""What the tree looks at: the same for a row of the table and for a post at the gate."""

from __future__ import annotations

from datetime import timedelta, timezone

import numpy as np
import pytest

from deployments.policy.policy import UNSAFE
from deployments.review_gate.features import FEATURES, Levels, commonest_languages, facts_of, matrix
from deployments.review_gate.values import NO_HISTORY, AuthorHistory, GateInput
from tests.review_gate.posts import NOW, post

LEVELS = Levels(("en", "hi", "hi-latn"))


def features(given: GateInput) -> dict[str, float]:
    return dict(zip(FEATURES, matrix(facts_of([given]), LEVELS)[0].tolist(), strict=True))


def test_every_feature_has_one_column() -> None:
    assert matrix(facts_of([post(), post()]), LEVELS).shape == (2, len(FEATURES))
    assert matrix(facts_of([]), LEVELS).shape == (0, len(FEATURES))


def test_age_and_speed_are_of_the_milestone() -> None:
    seen = features(post(views=1040))  # created six hours ago, reached an hour ago
    assert seen["age_h"] == 5
    assert seen["views_per_hour"] == pytest.approx(np.log10(1040 / 5 + 1))
    assert features(post(created_at=NOW, reached_at=NOW))["age_h"] == 1 / 60


def test_the_time_zone_of_a_timestamp_changes_nothing() -> None:
    delhi = timezone(timedelta(hours=5, minutes=30))
    elsewhere = post(created_at=post().created_at.astimezone(delhi))
    assert features(elsewhere) == pytest.approx(features(post()), nan_ok=True)


def test_age_is_the_one_that_the_input_tells() -> None:
    odd = post(created_at=NOW - timedelta(hours=7, microseconds=123_457))
    assert features(odd)["age_h"] == odd.age_h


def test_a_missing_history_is_not_an_empty_one() -> None:
    empty, missing = features(post(history=AuthorHistory("ok", 0, 0, 180))), features(post(history=NO_HISTORY))
    assert (empty["author_posts"], empty["author_discards"], empty["author_discard_rate"]) == (0, 0, 0.05)
    assert all(np.isnan(missing[name]) for name in ("author_posts", "author_discards", "author_discard_rate"))
    assert empty["author_history"] != missing["author_history"]


def test_a_stale_history_keeps_its_counts_and_says_so() -> None:
    stale, fresh = features(post(history=AuthorHistory("stale", 20, 7, 180))), features(post())
    assert stale["author_discard_rate"] == fresh["author_discard_rate"] == 8 / 40
    assert stale["author_history"] != fresh["author_history"]


def test_a_category_that_was_not_scored_is_not_zero() -> None:
    seen = features(post(category_scores={"hate": 0.0}))
    assert seen["hate"] == 0
    assert all(np.isnan(seen[name]) for name in UNSAFE if name != "hate")


@pytest.mark.parametrize(
    ("tag", "same_as"), [("hi-IN", "hi"), ("hi-Latn-IN", "hi-latn"), ("HI", "hi"), ("ta", "te"), ("", None)]
)
def test_a_language_is_looked_up_by_its_prefixes(tag: str, same_as: str | None) -> None:
    assert LEVELS.language_code(tag) == LEVELS.language_code(same_as)


def test_unknown_rare_and_known_languages_differ() -> None:
    assert len({LEVELS.language_code(tag) for tag in (None, "ta", "hi", "hi-Latn", "en")}) == 5


def test_common_varieties_become_levels_and_rare_ones_count_for_their_prefix() -> None:
    tags = ["hi"] * 3 + ["hi-Latn"] * 2 + ["ta"] * 2 + ["en-US"] * 5 + [None] * 9
    assert commonest_languages(tags, at_least=3) == ("en", "en-us", "hi")
    assert commonest_languages(tags, at_least=1, at_most=2) == ("en", "en-us")


def test_rows_do_not_touch_each_other() -> None:
    posts = [post(language=tag, nsfw_score=score) for tag, score in (("hi", 0.1), (None, 0.9), ("ta", 0.5))]
    together = matrix(facts_of(posts), LEVELS)
    alone = np.concatenate([matrix(facts_of([p]), LEVELS) for p in posts])
    np.testing.assert_array_equal(together, alone)
