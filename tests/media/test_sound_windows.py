"""A livestream's sound cut into windows."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from deployments.media.sound import to_mono
from deployments.media.windows import SHORTEST_S, cut_windows
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import SAMPLE_RATE_HZ


def test_windows_cover_every_sample_and_stop_where_the_sound_does() -> None:
    samples = np.arange(int(3.5 * SAMPLE_RATE_HZ), dtype=np.float32)
    windows = cut_windows(samples, 1.0, 0.25)
    heard = np.zeros(len(samples), bool)
    for window in windows:
        first = round(window.start_s * SAMPLE_RATE_HZ)
        heard[first : first + window.samples] = True
        np.testing.assert_array_equal(window.sound, samples[first : first + window.samples])
    assert heard.all()
    assert windows[-1].start_s + windows[-1].duration_s == 3.5
    assert len(cut_windows(samples[:SAMPLE_RATE_HZ], 1.0, 0.25)) == 1
    with pytest.raises(InvalidInput):
        cut_windows(samples, 1.0, 1.0)


@pytest.mark.parametrize("overlap_s", [0.0, 0.25])
def test_a_last_window_is_never_too_short_to_be_judged(overlap_s: float) -> None:
    """What a codec adds at the end of a file of whole windows, for instance."""
    for extra in (1, 100, int(SHORTEST_S * SAMPLE_RATE_HZ) - 1):
        samples = np.arange(2 * SAMPLE_RATE_HZ + extra, dtype=np.float32)
        windows = cut_windows(samples, 1.0, overlap_s)
        assert min(window.samples for window in windows) >= SHORTEST_S * SAMPLE_RATE_HZ
        assert windows[-1].sound[-1] == samples[-1]
        heard = [range(at := round(w.start_s * SAMPLE_RATE_HZ), at + w.samples) for w in windows]
        assert set().union(*heard) == set(range(len(samples)))
    (alone,) = cut_windows(np.zeros(10, np.float32), 1.0, overlap_s)
    assert alone.samples == 10


def test_mono_of_an_hour_in_stereo_fits_into_the_memory_of_a_decoding_child() -> None:
    channels = np.full((2, 2_000_000), 0.5, np.float32)
    tracemalloc.start()
    mono = to_mono(channels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < channels.nbytes
    np.testing.assert_allclose(mono, 0.5)


def test_channels_that_cancel_each_other_are_heard_through_the_louder() -> None:
    loud = np.sin(np.arange(16_000, dtype=np.float32))
    np.testing.assert_array_equal(to_mono(np.stack([loud, -0.99 * loud]).astype(np.float32)), loud)
    np.testing.assert_array_equal(to_mono(np.array([[np.nan, 3.0], [np.inf, 3.0]], np.float32)), [0.0, 1.0])
