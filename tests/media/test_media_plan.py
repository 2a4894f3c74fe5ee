"""Which packets are decoded: no more than the wanted times need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.media.plan import plan_runs, spread, wanted_times
from deployments.media.sound import plan_sound


def test_short_videos_are_seen_once_a_second() -> None:
    np.testing.assert_allclose(spread(0.0, 5.3, 1.0, 60), [0, 1, 2, 3, 4, 5])
    np.testing.assert_allclose(spread(0.0, 5.0, 1.0, 60), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(spread(0.0, 0.0, 1.0, 60), [0])


def test_long_videos_are_seen_evenly() -> None:
    times = spread(0.0, 3600.0, 1.0, 60)
    np.testing.assert_allclose(times, 30 + 60 * np.arange(60))


def test_a_key_frame_a_second_means_key_frames_only() -> None:
    times, keys = np.arange(300) / 30, np.arange(300) % 30 == 0
    runs = plan_runs(times, keys, spread(0.0, 10.0, 1.0, 60))
    assert [(run.first, run.stop) for run in runs] == [(30 * n, 30 * n + 1) for n in range(10)]


def test_a_long_group_is_decoded_once() -> None:
    times, keys = np.arange(300) / 30, np.arange(300) == 0
    runs = plan_runs(times, keys, spread(0.0, 10.0, 1.0, 60))
    assert [(run.first, run.stop) for run in runs] == [(0, 300)]


def test_an_hour_costs_its_key_frames_only() -> None:
    times, keys = np.arange(36_000) / 10, np.arange(36_000) % 100 == 0
    runs = plan_runs(times, keys, spread(0.0, 3600.0, 1.0, 60))
    assert sum(run.stop - run.first for run in runs) == 60


def test_a_stream_without_any_key_frame_is_tried_from_its_start() -> None:
    runs = plan_runs(np.arange(30) / 10, np.zeros(30, bool), spread(0.0, 3.0, 1.0, 60))
    assert runs[0].first == 0
    assert runs[-1].stop == 30


@settings(max_examples=200, deadline=None)
@given(
    gaps=st.lists(st.floats(-1.0, 50.0), min_size=1, max_size=80),
    key_every=st.integers(1, 40),
    interval=st.floats(0.1, 20),
    cap=st.integers(1, 40),
)
def test_every_plan_is_in_order_and_within_the_file(
    gaps: list[float], key_every: int, interval: float, cap: int
) -> None:
    times = np.cumsum(gaps)
    keys = np.arange(len(times)) % key_every == 0
    wanted = wanted_times(times, float(times.max()) + 0.1, interval, cap)
    assert 1 <= len(wanted) <= cap
    runs = plan_runs(times, keys, wanted)
    assert sum(len(run.targets_s) for run in runs) == len(wanted)
    edges = [edge for run in runs for edge in (run.first, run.stop)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= len(times)
    assert all(keys[run.first] for run in runs)


def test_long_sound_is_heard_in_blocks_of_ten_examples() -> None:
    assert [stretch.start_s for stretch in plan_sound(0.0, 299.0, 300.0).stretches] == [0.0]
    assert plan_sound(0.0, 300.0, 300.0).whole
    plan = plan_sound(0.0, 3600.0, 300.0)
    blocks = plan.stretches
    assert not plan.whole
    assert len(blocks) == 31
    assert blocks[0].start_s == 0.0
    assert blocks[-1].stop_s == pytest.approx(3600.0)
    assert all(block.stop_s - block.start_s == pytest.approx(9.6) for block in blocks)
