"""The livestream benchmark measures what it says: its clips are clips, its arithmetic is the model's."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks.livestream.clips import CLIP_S, STREAMS, Sender, sounds, wav
from benchmarks.livestream.floor import flops
from benchmarks.livestream.rounds import PathCost, added
from benchmarks.livestream.soak import slope
from benchmarks.livestream.worker import Spent
from deployments.wav2vec2.random_weights import base_config
from serve_app.events.incoming import ClipRecorded, EventReader
from serve_app.events.message import Message
from serve_app.events.settings import TopicNames
from serve_app.streams.pcm import read_wav


@pytest.mark.parametrize("as_json", [False, True])
def test_every_message_is_a_clip_of_its_own_with_its_whole_sound(as_json: bool) -> None:
    samples = sounds(2)
    sender, reader = Sender([wav(one) for one in samples], as_json=as_json), EventReader(TopicNames(clips="clips"))
    identities = []
    for number in range(2 * STREAMS):
        sent = sender.next()
        message = Message("clips", 0, number, sent.value, datetime.now(UTC), sent.key, dict(sent.headers))
        read = reader.read_now(message)
        assert isinstance(read, ClipRecorded)
        identities.append((read.clip.stream_id, read.clip.start_s))
        assert identities[-1] == sent.identity
        heard = read_wav(read.sound.data or b"")
        assert heard is not None
        np.testing.assert_allclose(heard, samples[number % 2], atol=1e-4)
        assert len(heard) == CLIP_S * 16_000
    assert len(set(identities)) == 2 * STREAMS


def test_a_clip_of_20_s_is_315_gflop_and_a_shorter_one_less() -> None:
    """As torch's own counter says of the eager model, attention included."""
    assert flops(base_config(), 20.0) == pytest.approx(315e9, rel=0.01)
    assert flops(base_config(), 10.0) < 0.5 * flops(base_config(), 20.0)


def test_rounds_add_up_and_everything_is_worker_broker_and_database() -> None:
    one = PathCost(2, Spent(4.0, 3.0, 0.5), broker=0.2, database=0.1, wall=9.0, skipped=1)
    both = added([one, one])
    assert (both.clips, both.skipped, both.spent) == (4, 2, Spent(8.0, 6.0, 1.0))
    assert both.everything == pytest.approx(8.6)


def test_a_slope_is_that_of_growth_and_not_of_a_buffer_taken_and_given_back() -> None:
    minutes = [float(at) for at in range(20)]
    grown = [100 + 0.5 * at + (350 if 3 <= at < 8 else 0) for at in minutes]
    assert slope(minutes, grown) == pytest.approx(0.5)
