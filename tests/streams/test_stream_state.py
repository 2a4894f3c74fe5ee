"""Hysteresis over windows: k of n raise a flag, a lower threshold keeps it, and the order of arrival is nothing."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.policy.policy import CATEGORIES, Policy, default_policy
from deployments.policy.streams import StreamPolicy
from serve_app.streams.state import HORIZON, StreamRule
from serve_app.streams.values import ClipResult, StateChange, StreamState

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def clip(index: int, hate: float | None, *, language: str | None = None, every_s: float = 20.0) -> ClipResult:
    """The index-th clip of a stream, with so much of hate; None: the voice gate skipped it."""
    scores = None
    if hate is not None:
        scores = dict.fromkeys(CATEGORIES, 0.0) | {"hate": hate, "safe": 1.0 - hate}
    return ClipResult(
        stream_id="s1",
        start_s=index * every_s,
        duration_s=20.0,
        created_at=NOW,
        decided_at=NOW,
        age_s=0.0,
        language=language,
        model_language="und",
        fallback=True,
        skipped="no_speech" if hate is None else None,
        nsfw_score=hate,
        category_scores=scores,
        policy_version="p",
        sound_sha256=f"{index:064d}",
    )


def policy(**streams: object) -> Policy:
    rule = StreamPolicy.model_validate({"windows": 5, "enter": 2, "leave_ratio": 0.7} | streams)
    return default_policy().model_copy(update={"streams": rule})


def fold(clips: list[ClipResult], rule: StreamRule) -> tuple[StreamState, list[StateChange]]:
    state, changes = None, []
    for one in clips:
        state, change = rule.add(state, one)
        if change is not None:
            changes.append(change)
    assert state is not None
    return state, changes


def actions(scores: list[float | None], **streams: object) -> list[str]:
    rule, state = StreamRule(policy(**streams)), None
    seen: list[str] = []
    for index, score in enumerate(scores):
        state, _ = rule.add(state, clip(index, score))
        seen.append(state.action)
    return seen


def test_one_bad_clip_does_not_flag_and_two_of_five_do() -> None:
    assert actions([0.1, 0.5, 0.1, 0.1, 0.5]) == ["allow", "allow", "allow", "allow", "review"]


def test_two_bad_clips_six_apart_are_not_two_of_five() -> None:
    assert set(actions([0.5, 0.1, 0.1, 0.1, 0.1, 0.5])) == {"allow"}


def test_a_flag_stays_at_scores_between_the_leave_and_the_enter_threshold() -> None:
    enter, between, below = 0.46, 0.45 * 0.7 + 0.01, 0.45 * 0.7 - 0.01
    assert actions([enter, enter, between, between, between, between, between])[-1] == "review"
    assert actions([enter, enter, below, below, below, below])[-1] == "allow"
    assert set(actions([between] * 7)) == {"allow"}  # the same scores raise no flag


def test_a_stream_can_rise_to_block_and_the_changes_tell_each_step_with_its_windows() -> None:
    scores = [0.5, 0.5, 0.95, 0.95, 0.1, 0.1, 0.1, 0.1, 0.1]
    state, changes = fold([clip(i, score) for i, score in enumerate(scores)], StreamRule(policy()))
    assert [(c.kind, c.previous_action, c.action) for c in changes] == [
        ("flagged", "allow", "review"),
        ("flagged", "review", "block"),
        ("cleared", "block", "allow"),
    ]
    assert changes[-1].kind == "cleared"
    assert state.action == "allow"
    raised = changes[0]
    assert [window.start_ms for window in raised.windows] == [0, 20_000]
    assert {flag.category for flag in raised.flags} == {"hate"}
    assert raised.flags[0].since_ms == 0
    assert changes[-1].flags  # what was lowered


def test_a_skipped_clip_counts_as_quiet() -> None:
    assert actions([0.5, None, None, None, None, 0.5])[-1] == "allow"
    assert actions([0.5, None, 0.5])[-1] == "review"


def test_a_long_pause_forgets() -> None:
    rule = StreamRule(policy(reset_after_s=60.0))
    state, _ = fold([clip(0, 0.5), clip(1, 0.5)], rule)
    assert state.action == "review"
    state, change = rule.add(state, clip(10, 0.5))  # 160 s after the last one's end
    assert state.action == "allow"
    assert change is not None
    assert change.kind == "cleared"


def test_thresholds_are_those_of_the_language() -> None:
    strict = policy().model_dump() | {"languages": {"hi": {"hate": {"review": 0.2, "block": 0.9}}}}
    rule = StreamRule(Policy.model_validate(strict))
    assert fold([clip(0, 0.3, language="hi-IN"), clip(1, 0.3, language="hi-IN")], rule)[0].action == "review"
    assert fold([clip(0, 0.3, language="ta"), clip(1, 0.3, language="ta")], rule)[0].action == "allow"


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=HORIZON),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_order_of_arrival_ends_in_the_same_state(scores: list[float | None], seed: int) -> None:
    rule = StreamRule(policy())
    clips = [clip(i, score) for i, score in enumerate(scores)]
    in_order, _ = fold(clips, rule)
    random.Random(seed).shuffle(clips)
    shuffled, _ = fold(clips, rule)
    assert shuffled == in_order


@settings(max_examples=20, deadline=None)
@given(scores=st.lists(st.floats(0, 1), min_size=HORIZON + 1, max_size=3 * HORIZON), near=st.integers(1, 8))
def test_what_has_left_the_horizon_still_counts_as_it_did(scores: list[float], near: int) -> None:
    """Folding all windows anew is the reference: the kept base stands for the windows that were let go."""
    rule = StreamRule(policy())
    clips = [clip(i, score) for i, score in enumerate(scores)]
    for first in range(0, len(clips), near):  # out of order, but never by more than the horizon
        clips[first : first + near] = reversed(clips[first : first + near])
    state, _ = fold(clips, rule)
    flags: tuple[object, ...] = ()
    windows = [window for one in sorted(clips, key=lambda c: c.start_ms) for window in fold([one], rule)[0].windows]
    for index in range(len(windows)):
        flags = rule._step(flags, windows[max(0, index - 4) : index + 1])  # type: ignore[arg-type]
    assert state.flags == flags
    assert len(state.windows) == HORIZON
    assert state.clips == len(scores)


def test_a_clip_older_than_the_horizon_is_counted_and_changes_nothing() -> None:
    rule = StreamRule(policy())
    state, _ = fold([clip(i, 0.1) for i in range(1, HORIZON + 20)], rule)
    late, change = rule.add(state, clip(0, 0.99))
    assert change is None
    assert (late.late, late.clips) == (1, state.clips + 1)
    assert late.windows == state.windows
    assert late.flags == state.flags


@pytest.mark.parametrize("wrong", [{"enter": 6}, {"windows": 0}, {"leave_ratio": 1.5}, {"reset_after_s": 0}])
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"enter|windows|leave_ratio|reset_after_s"):
        policy(**wrong)
