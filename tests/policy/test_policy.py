"""A policy turns seven scores into one action, and never waves through what could not be judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deployments.policy.matches import ACTIONS
from deployments.policy.policy import CATEGORIES, UNSAFE, Policy, PolicyDecision, default_policy
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import MISSING, Modality, ModalityStatus, Status

OK = {Modality.TEXT: ModalityStatus(Status.OK)}
FAILED_SOUND = OK | {Modality.AUDIO: ModalityStatus(Status.FAILED, "the sound does not decode")}


def scores(**given: float) -> dict[str, float]:
    unsafe = dict.fromkeys(UNSAFE, 0.0) | given
    return {"safe": max(0.0, 1.0 - sum(unsafe.values())), **unsafe}


def policy(tmp_path: Path, **changes: object) -> Policy:
    table = {
        "version": "test-1",
        "categories": {name: {"review": 0.5, "block": 0.9} for name in UNSAFE},
        "any": {"review": 0.7, "block": 0.95},
    }
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump({**table, **changes}))
    return Policy.load(path)


def decide(category_scores: Mapping[str, float], language: str | None = None) -> PolicyDecision:
    return default_policy().decide(category_scores, language, OK)


def test_a_safe_post_is_allowed_and_the_reason_names_the_highest_score() -> None:
    decision = decide(scores(hate=0.1))
    assert (decision.action, decision.category, decision.threshold) == ("allow", None, None)
    assert "hate" in decision.reason
    assert decision.policy_version == "default-3"


def test_the_threshold_that_decided_stands_in_the_decision() -> None:
    decision = decide(scores(violence=0.7))
    assert (decision.action, decision.category, decision.threshold) == ("review", "violence", 0.5)
    assert decision.reason == "The score of violence is 0.70, at or above the review threshold of 0.50."


def test_a_score_exactly_at_a_threshold_triggers_it(tmp_path: Path) -> None:
    assert policy(tmp_path).decide(scores(nudity=0.9), None, OK).action == "block"


def test_the_severest_action_wins_over_the_highest_score(tmp_path: Path) -> None:
    categories = {name: {"review": 0.3, "block": 1.0} for name in UNSAFE} | {"hate": {"review": 0.2, "block": 0.35}}
    decision = policy(tmp_path, categories=categories).decide(scores(violence=0.55, hate=0.4), None, OK)
    assert (decision.action, decision.category) == ("block", "hate")


def test_a_score_split_over_categories_is_not_lost() -> None:
    decision = decide(scores(violence=0.3, abusive=0.29, hate=0.2))
    assert (decision.action, decision.category, decision.threshold) == ("review", "violence", 0.6)


@pytest.mark.parametrize("language", ["hi", "hi-IN", "HI-in", "hi-Latn-IN"])
def test_a_language_override_serves_every_tag_with_its_prefix(tmp_path: Path, language: str) -> None:
    strict = policy(tmp_path, languages={"hi": {"abusive": {"review": 0.1, "block": 0.2}}})
    decision = strict.decide(scores(abusive=0.3), language, OK)
    assert (decision.action, decision.threshold) == ("block", 0.2)
    assert "for language hi" in decision.reason


@pytest.mark.parametrize("language", [None, "en", "hif", "ta-IN"])
def test_other_languages_keep_the_general_threshold(tmp_path: Path, language: str | None) -> None:
    strict = policy(tmp_path, languages={"hi": {"abusive": {"review": 0.1, "block": 0.2}}})
    assert strict.decide(scores(abusive=0.3), language, OK).action == "allow"


def test_the_longest_matching_prefix_counts(tmp_path: Path) -> None:
    overrides = {"hi": {"any": {"review": 0.1, "block": 1.0}}, "hi-Latn": {"any": {"review": 0.2, "block": 0.3}}}
    decision = policy(tmp_path, languages=overrides).decide(scores(hate=0.4), "hi-Latn-IN", OK)
    assert (decision.action, decision.threshold) == ("block", 0.3)


def test_norwegian_is_a_language_and_not_false(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    policy(tmp_path)
    path.write_text(path.read_text() + "languages:\n  no: {hate: {review: 0.1, block: 0.2}}\n")
    assert Policy.load(path).decide(scores(hate=0.3), "no", OK).action == "block"


def test_a_failed_modality_makes_a_safe_post_a_review() -> None:
    decision = default_policy().decide(scores(), None, FAILED_SOUND)
    assert (decision.action, decision.category) == ("review", None)
    assert decision.reason.startswith("Audio could not be judged (the sound does not decode)")


def test_a_failed_modality_does_not_soften_a_block() -> None:
    decision = default_policy().decide(scores(violence=0.99), None, FAILED_SOUND)
    assert (decision.action, decision.category) == ("block", "violence")
    assert "audio could not be judged" in decision.reason


def test_a_policy_may_block_where_a_modality_failed(tmp_path: Path) -> None:
    assert policy(tmp_path, on_failed_modality="block").decide(scores(), None, FAILED_SOUND).action == "block"


@pytest.mark.parametrize("modalities", [{}, {Modality.TEXT: MISSING}, {Modality.TEXT: ModalityStatus(Status.FAILED)}])
def test_a_post_of_which_nothing_was_usable_goes_to_review(modalities: Mapping[Modality, ModalityStatus]) -> None:
    decision = default_policy().decide({}, None, modalities)
    assert decision.action == "review"
    assert decision.reason.startswith("Nothing of this post could be judged")


def test_a_partly_decoded_modality_is_judged_by_its_scores() -> None:
    partial = {Modality.VISUAL: ModalityStatus(Status.PARTIAL, "broke off")}
    assert default_policy().decide(scores(), None, partial).action == "allow"


def test_the_default_action_is_a_floor(tmp_path: Path) -> None:
    careful = policy(tmp_path, default_action="review")
    assert careful.decide(scores(), None, OK).action == "review"
    assert careful.decide(scores(hate=0.99), None, OK).action == "block"


@pytest.mark.parametrize("broken", [{"safe": 1.0}, scores() | {"hate": float("nan")}, scores() | {"hate": 1.5}])
def test_scores_that_are_no_scores_are_refused(broken: Mapping[str, float]) -> None:
    with pytest.raises(InvalidInput, match="category score"):
        decide(broken)


@pytest.mark.parametrize(
    ("score", "severity"), [(0.0, 0), (0.2499, 0), (0.25, 2), (0.5, 4), (0.79, 4), (0.8, 6), (1, 6)]
)
def test_severity_rises_in_the_policys_steps(score: float, severity: int) -> None:
    assert default_policy().severity_of(score) == severity


def test_a_segment_at_its_review_threshold_is_not_allowed_whatever_the_whole_post_scores() -> None:
    decision = default_policy().decide(scores(hate=0.1), None, OK, segments=[("violence", 0.8), ("dangerous", 0.9)])
    assert (decision.action, decision.category, decision.threshold) == ("review", "dangerous", 0.4)
    assert decision.reason == "The score of a segment of dangerous is 0.90, at or above the review threshold of 0.40."


def test_a_segment_below_its_review_threshold_changes_nothing() -> None:
    assert default_policy().decide(scores(), None, OK, segments=[("violence", 0.49)]).action == "allow"
    assert default_policy().decide({}, None, {}, segments=[("violence", 0.9)]).reason.startswith("Nothing of this post")


def test_a_segment_never_blocks_and_softens_no_block() -> None:
    assert default_policy().decide(scores(), None, OK, segments=[("violence", 1.0)]).action == "review"
    blocked = default_policy().decide(scores(hate=0.99), None, OK, segments=[("violence", 0.6)])
    assert (blocked.action, blocked.category) == ("block", "hate")


def test_a_language_override_serves_segments_too(tmp_path: Path) -> None:
    strict = policy(tmp_path, languages={"hi": {"abusive": {"review": 0.1, "block": 0.2}}})
    assert strict.decide(scores(), "en", OK, segments=[("abusive", 0.15)]).action == "allow"
    assert strict.decide(scores(), "hi-IN", OK, segments=[("abusive", 0.15)]).action == "review"


def test_a_segment_and_a_failed_modality_both_stand_in_the_reason() -> None:
    reason = default_policy().decide(scores(), None, FAILED_SOUND, segments=[("violence", 0.8)]).reason
    assert "segment of violence" in reason
    assert "audio could not be judged" in reason


@pytest.mark.parametrize("segment", [("safe", 0.9), ("rude", 0.9), ("hate", 1.5), ("hate", float("nan"))])
def test_segments_that_are_none_are_refused(segment: tuple[str, float]) -> None:
    with pytest.raises(InvalidInput, match="segment of"):
        default_policy().decide(scores(), None, OK, segments=[segment])


fractions = st.floats(0, 1)
pairs = st.tuples(fractions, fractions).map(sorted).map(lambda p: {"review": p[0], "block": p[1]})
policies = st.builds(
    lambda thresholds, whole, default, failed, own: Policy.model_validate(
        {
            "version": "drawn",
            "default_action": default,
            "on_failed_modality": failed,
            "categories": dict(zip(UNSAFE, thresholds, strict=True)),
            "any": whole,
            "languages": {"hi": own},
        }
    ),
    st.lists(pairs, min_size=6, max_size=6),
    pairs,
    st.sampled_from(ACTIONS),
    st.sampled_from(["review", "block"]),
    st.dictionaries(st.sampled_from(UNSAFE), pairs),
)
drawn_scores = st.lists(fractions, min_size=7, max_size=7).map(lambda s: dict(zip(CATEGORIES, s, strict=True)))
drawn_modalities = st.dictionaries(
    st.sampled_from(list(Modality)), st.sampled_from(list(Status)).map(ModalityStatus), max_size=3
)


@given(policies, drawn_scores, drawn_modalities, st.sampled_from(UNSAFE), fractions, st.sampled_from(["hi-IN", "en"]))
def test_raising_a_score_never_lowers_the_action(
    drawn: Policy,
    before: dict[str, float],
    modalities: dict[Modality, ModalityStatus],
    category: str,
    rise: float,
    language: str,
) -> None:
    risen = min(1.0, before[category] + rise)
    after = before | {category: risen, "safe": max(0.0, before["safe"] - (risen - before[category]))}
    first = drawn.decide(before, language, modalities).action
    assert ACTIONS.index(drawn.decide(after, language, modalities).action) >= ACTIONS.index(first)


drawn_segments = st.lists(st.tuples(st.sampled_from(UNSAFE), fractions), max_size=4)


@given(
    policies, drawn_scores, drawn_modalities, drawn_segments, st.tuples(st.sampled_from(UNSAFE), fractions), fractions
)
def test_a_further_or_worse_segment_never_lowers_the_action(
    drawn: Policy,
    drawn_score: dict[str, float],
    modalities: dict[Modality, ModalityStatus],
    segments: list[tuple[str, float]],
    further: tuple[str, float],
    rise: float,
) -> None:
    worse = (further[0], min(1.0, further[1] + rise))
    ranks = [
        ACTIONS.index(drawn.decide(drawn_score, "hi", modalities, segments=listed).action)
        for listed in (segments, [*segments, further], [*segments, worse])
    ]
    assert ranks == sorted(ranks)


@given(policies, drawn_scores, drawn_modalities)
def test_a_failure_never_leads_to_allow(
    drawn: Policy, drawn_score: dict[str, float], modalities: dict[Modality, ModalityStatus]
) -> None:
    decision = drawn.decide(drawn_score, None, modalities)
    failed = any(status.status is Status.FAILED for status in modalities.values())
    usable = any(status.usable for status in modalities.values())
    assert decision.action != "allow" or (usable and not failed)
    assert decision.reason.endswith(".")
