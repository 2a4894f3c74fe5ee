"""What a match does to a decision: it raises an action or does nothing, and known-bad content decides alone."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.policy.matches import ACTIONS, MatchFact, MatchPolicy
from deployments.policy.policy import CATEGORIES, Policy, PolicyDecision, default_policy


def policy(**matches: Any) -> Policy:
    return default_policy().model_copy(update={"matches": MatchPolicy.model_validate(matches)})


def decision(action: str = "allow") -> PolicyDecision:
    return PolicyDecision(action, None, None, "1", "as the scores say")  # type: ignore[arg-type]


def fact(use: str, action: str | None = None, stage: str = "pdq") -> MatchFact:
    return MatchFact(use, "m1", stage, action)


def test_without_matches_the_scores_decide() -> None:
    assert default_policy().with_matches(decision(), []) == decision()


@pytest.mark.parametrize("scored", ACTIONS)
def test_known_bad_content_is_blocked_and_held_whatever_the_scores_say(scored: str) -> None:
    found = default_policy().with_matches(decision(scored), [fact("protected", "review"), fact("known_bad")])
    assert (found.action, found.use, found.category) == ("block", "known_bad", "dangerous")
    assert found.legal_hold
    assert found.no_preview
    assert found.reason == "It is known-bad content, found by pdq."  # the entry is not for everybody


def test_what_known_bad_does_is_policy() -> None:
    mild = policy(known_bad={"action": "review", "category": "sexual", "legal_hold": False, "no_preview": False})
    found = mild.with_matches(decision(), [fact("known_bad")])
    assert (found.action, found.category, found.legal_hold, found.no_preview) == ("review", "sexual", False, False)
    assert mild.with_matches(decision("block"), [fact("known_bad")]).action == "block"


def test_known_bad_content_counts_as_its_category_with_certainty() -> None:
    scores = default_policy().known_bad_scores()
    assert set(scores) == set(CATEGORIES)
    assert (scores["dangerous"], sum(scores.values())) == (1.0, 1.0)


@pytest.mark.parametrize(("asked", "action"), [("block", "block"), ("review", "review"), ("allow", "allow")])
def test_a_protected_work_acts_as_its_reference_says(asked: str, action: str) -> None:
    assert default_policy().with_matches(decision(), [fact("protected", asked)]).action == action


@pytest.mark.parametrize("asked", [None, "licensed"])
def test_a_reference_without_a_policy_gets_the_default(asked: str | None) -> None:
    assert default_policy().with_matches(decision(), [fact("protected", asked)]).action == "review"


def test_the_policy_may_overrule_what_references_say() -> None:
    assert policy(protected={"action": "allow"}).with_matches(decision(), [fact("protected", "block")]) == decision()


def test_the_severest_match_counts_and_none_lowers_an_action() -> None:
    matches = [fact("protected", "review"), fact("protected", "block"), fact("protected", "allow")]
    assert default_policy().with_matches(decision(), matches).action == "block"
    assert default_policy().with_matches(decision("block"), [fact("protected", "review")]) == decision("block")


@pytest.mark.parametrize("stage", ["sha256", "pdq"])
def test_a_duplicate_inherits_what_the_repeated_post_got(stage: str) -> None:
    found = default_policy().with_matches(decision(), [fact("duplicate", "block", stage)])
    assert (found.action, found.use, found.legal_hold) == ("block", "duplicate", False)


def test_likeness_alone_inherits_at_most_review() -> None:
    assert default_policy().with_matches(decision(), [fact("duplicate", "block", "embedding")]).action == "review"


def test_a_duplicate_of_an_unknown_action_decides_nothing() -> None:
    assert default_policy().with_matches(decision(), [fact("duplicate", None)]) == decision()
    assert policy(duplicate={"action": "allow"}).with_matches(decision(), [fact("duplicate", "block")]) == decision()


def test_likeness_asked_for_by_a_search_decides_nothing() -> None:
    assert default_policy().with_matches(decision(), [fact("similar", "block")]) == decision()


def test_a_failed_search_does_what_the_policy_says() -> None:
    assert default_policy().without_search(decision()).action == "review"  # never waved through
    assert policy(on_failed_search="allow").without_search(decision()) == decision()
    careful = policy(on_failed_search="review")
    assert careful.without_search(decision()).action == "review"
    assert careful.without_search(decision("block")) == decision("block")
