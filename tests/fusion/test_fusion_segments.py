"""Two bad seconds in a minute are found, told to the second, and raise the post's score; a good minute stays good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.fusion.chance import fit_offsets
from deployments.fusion.dataset import read_dataset
from deployments.fusion.features import FusionInput
from deployments.fusion.head import FusionHead
from deployments.fusion.mlp import softmax
from deployments.fusion.pooling import log_mean_exp, margins, post_scores
from deployments.fusion.settings import WindowSettings
from deployments.runtime.values import Embeddings, Modality, TextEmbedding
from tests.fusion.separable import vector, write_table

NOISE = 0.08


def track(modality: Modality, n: int, seed: int, bad: dict[int, str] | None = None, step_s: float = 1.0) -> Embeddings:
    """n vectors of safe content, but for the places that `bad` names."""
    rng = np.random.default_rng(1000 + seed)  # directions are drawn from the seeds below
    rows = [vector(modality, (bad or {}).get(i, "safe"), rng, NOISE) for i in range(n)]
    return Embeddings(np.stack(rows), times_s=(step_s * np.arange(n)).astype(np.float32))


def text(category: str) -> TextEmbedding:
    return TextEmbedding(vector(Modality.TEXT, category, np.random.default_rng(1009), NOISE), 4, False)


def frames(n: int, seed: int = 0, bad: dict[int, str] | None = None) -> Embeddings:
    return track(Modality.VISUAL, n, seed, bad)


TWO_BAD = {20: "violence", 21: "violence"}


def test_two_bad_frames_of_sixty_lift_the_score_far_above_the_mean(head: FusionHead) -> None:
    video = FusionInput(frames(60, bad=TWO_BAD))
    mean_only = 1.0 - head.mean_scores(video)["safe"]
    output = head.predict(video)
    assert mean_only < 0.2
    assert output.nsfw_score > 0.8
    assert max(output.category_scores, key=lambda c: output.category_scores[c] * (c != "safe")) == "violence"


@pytest.mark.parametrize("seed", range(8))
def test_sixty_good_frames_rise_little_above_their_mean(head: FusionHead, seed: int) -> None:
    video = FusionInput(frames(60, seed))
    mean_only = 1.0 - head.mean_scores(video)["safe"]
    assert mean_only - 1e-6 <= head.predict(video).nsfw_score < mean_only + 0.1


@pytest.mark.parametrize("seed", range(5))
def test_a_good_minute_with_sound_and_caption_is_safe_and_has_no_segment(head: FusionHead, seed: int) -> None:
    video = FusionInput(frames(60, seed), track(Modality.AUDIO, 62, seed, step_s=0.96), text("safe"))
    output = head.predict(video)
    assert output.nsfw_score < 0.05
    assert output.segments == ()


def test_the_segment_has_the_right_seconds_modality_and_category(head: FusionHead) -> None:
    (segment,) = head.predict(FusionInput(frames(60, bad=TWO_BAD), text=text("safe"))).segments
    assert (segment.start_s, segment.end_s) == (20.0, 22.0)
    assert (segment.modality, segment.category) == (Modality.VISUAL, "violence")
    assert 0.7 <= segment.score <= 1.0


def test_two_bad_places_make_two_segments_in_order_of_time(head: FusionHead) -> None:
    bad = {5: "hate", 40: "nudity", 41: "nudity", 42: "nudity"}
    found = head.predict(FusionInput(frames(60, bad=bad))).segments
    assert [(s.start_s, s.end_s, s.category) for s in found] == [(5.0, 6.0, "hate"), (40.0, 43.0, "nudity")]


def test_bad_sound_under_good_frames_is_told_as_sound(head: FusionHead) -> None:
    sound = track(Modality.AUDIO, 60, 2, {30: "abusive", 31: "abusive", 32: "abusive"}, step_s=0.96)
    found = head.predict(FusionInput(frames(58), sound)).segments
    audible = [s for s in found if s.modality is Modality.AUDIO]
    assert [(s.start_s, s.end_s, s.category) for s in audible] == [(28.8, 31.68, "abusive")]
    assert audible == list(found)


def test_a_sound_without_frames_has_segments_too(head: FusionHead) -> None:
    sound = track(Modality.AUDIO, 30, 3, dict.fromkeys(range(10, 14), "dangerous"), step_s=0.96)
    (segment,) = head.predict(FusionInput(sound=sound)).segments
    assert segment.start_s == pytest.approx(9.6)
    assert segment.end_s == pytest.approx(13.44)


def test_a_bad_caption_makes_no_seconds_bad(head: FusionHead) -> None:
    output = head.predict(FusionInput(frames(30), text=text("hate")))
    assert output.nsfw_score > 0.5
    assert output.segments == ()


def test_bad_seconds_show_under_a_bad_caption(head: FusionHead) -> None:
    found = head.predict(FusionInput(frames(60, bad=TWO_BAD), text=text("violence"))).segments
    assert [(s.start_s, s.end_s) for s in found] == [(20.0, 22.0)]


def test_seconds_follow_the_given_times(head: FusionHead) -> None:
    slow = frames(60, bad=TWO_BAD)
    assert slow.times_s is not None
    late = Embeddings(slow.vectors, times_s=slow.times_s * 10 + 100)
    (segment,) = head.predict(FusionInput(late)).segments
    assert (segment.start_s, segment.end_s) == (300.0, 320.0)


def test_a_bad_second_between_sampled_frames_is_heard(head: FusionHead) -> None:
    sparse = frames(6)
    assert sparse.times_s is not None
    sparse = Embeddings(sparse.vectors, times_s=sparse.times_s * 30)
    sound = track(Modality.AUDIO, 180, 4, {100: "violence", 101: "violence"}, step_s=0.96)
    found = head.predict(FusionInput(sparse, sound)).segments
    assert ("violence", Modality.AUDIO, 96.0) in [(s.category, s.modality, s.start_s) for s in found]


def test_the_list_of_segments_is_bounded_and_keeps_the_strongest(head: FusionHead) -> None:
    flicker = frames(60, bad=dict.fromkeys(range(0, 60, 2), "hate"))
    bounded = FusionHead(head.details, head.mlp.tensors, WindowSettings(max_segments=5))
    everything, few = head.predict(FusionInput(flicker)).segments, bounded.predict(FusionInput(flicker)).segments
    assert len(few) == 5
    assert min(s.score for s in few) == sorted((s.score for s in everything), reverse=True)[4]
    assert list(few) == sorted(few, key=lambda s: s.start_s)


rows = st.lists(st.lists(st.floats(-20, 20), min_size=7, max_size=7), min_size=1, max_size=30)


@given(rows, st.floats(0.5, 50))
def test_the_pool_lies_between_the_mean_and_the_worst_window(logits: list[list[float]], sharpness: float) -> None:
    drawn = margins(np.array(logits, np.float32))
    pool = log_mean_exp(drawn, sharpness)
    assert (pool <= drawn.max(axis=0) + 1e-4).all()
    assert (pool >= drawn.mean(axis=0) - 1e-4).all()


@given(rows, st.integers(1, 6), st.floats(0, 10))
def test_a_worse_window_never_makes_a_better_post(logits: list[list[float]], category: int, rise: float) -> None:
    group = np.array(logits, np.float32)
    worse = group.copy()
    worse[0, category] += np.float32(rise)
    whole = np.zeros(7, np.float32)
    before, after = post_scores(whole, [(group, 0.5)], 4.0), post_scores(whole, [(worse, 0.5)], 4.0)
    assert after[0] <= before[0] + 1e-6
    assert after[category] >= before[category] - 1e-6


def test_equal_windows_give_back_their_own_score() -> None:
    logits = np.array([2.0, -1, 0, 1, 3, 0, 0], np.float32)
    np.testing.assert_allclose(post_scores(logits, [(np.tile(logits, (60, 1)), 0.0)], 4.0), softmax(logits), atol=1e-6)


def test_the_offset_of_a_modality_without_safe_examples_is_none(head: FusionHead, tmp_path: Path) -> None:
    data = read_dataset(write_table(tmp_path / "t.jsonl", n=60))
    assert fit_offsets(head.mlp, 1.0, 4.0, data, seed=0) == {Modality.VISUAL: 0.0, Modality.AUDIO: 0.0}


def test_training_measures_what_good_content_reaches_by_chance(head: FusionHead) -> None:
    offsets = head.details.pooling.offsets
    assert set(offsets) == {Modality.VISUAL, Modality.AUDIO}
    assert all(0 < offset < 6 for offset in offsets.values())
