"""Sound of any form to results: what is heard, what is refused, and how a long piece becomes clips."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from deployments.media.settings import MediaSettings
from deployments.media.windows import SoundCut
from deployments.policy.policy import default_policy
from deployments.runtime.errors import (
    FetchFailed,
    InvalidInput,
    NodeUnavailable,
    TooLarge,
    UndecodableMedia,
    UnsupportedMedia,
)
from deployments.runtime.values import SAMPLE_RATE_HZ, SoundWindow
from serve_app.config import AppConfig
from serve_app.local_nodes import LocalNodes
from serve_app.posts import MediaSource
from serve_app.streams.judging import ClipJudge
from serve_app.streams.pcm import Pcm, as_wav
from serve_app.streams.values import Clip

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
PCM = Pcm("s16le", SAMPLE_RATE_HZ)
PIECE = Clip(stream_id="s1", start_s=100.0, created_at=AT, language="hi")


def tone(seconds: float, rate: int = SAMPLE_RATE_HZ) -> bytes:
    t = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * t) * 32767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> AppConfig:
    media = {"settings": {"decode_workers": 1, "max_stream_sound_s": 50.0}}
    folder: Path = tmp_path_factory.mktemp("streams")
    return AppConfig.model_validate(
        {"data_dir": folder, "media": media, "streams": {"encoder": {"variant": "fake"}, "window_s": 20.0}}
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(config: AppConfig) -> AsyncIterator[LocalNodes]:
    made = LocalNodes(config)
    yield made
    await made.close()


@pytest.fixture(scope="module")
def judge(nodes: LocalNodes) -> ClipJudge:
    return ClipJudge(nodes, default_policy(), SoundCut(20.0, 5.0), max_clip_s=20.5, max_sound_s=50.0)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_clip_becomes_a_result_that_says_which_model_heard_it(judge: ClipJudge) -> None:
    result = await judge.judge(PIECE, MediaSource(data=tone(20)), pcm=PCM)
    assert (result.stream_id, result.start_s, result.duration_s) == ("s1", 100.0, 20.0)
    assert result.created_at == AT
    assert result.fallback
    assert result.language == "hi"
    assert result.category_scores is not None
    assert abs(sum(result.category_scores.values()) - 1) < 1e-5
    assert result.nsfw_score == pytest.approx(1 - result.category_scores["safe"], abs=1e-5)
    assert result.model is not None
    assert result.policy_version == default_policy().version


async def test_the_same_sound_has_the_same_digest_bare_in_a_container_and_resampled_it_does_not(
    judge: ClipJudge,
) -> None:
    bare = await judge.judge(PIECE, MediaSource(data=tone(2)), pcm=PCM)
    wav = await judge.judge(PIECE, MediaSource(data=as_wav(tone(2), PCM)))
    other = await judge.judge(PIECE, MediaSource(data=tone(2, 44_100)), pcm=Pcm("s16le", 44_100))
    assert bare.sound_sha256 == wav.sound_sha256 != other.sound_sha256
    assert other.duration_s == pytest.approx(2.0, abs=0.05)


async def test_a_container_is_decoded_by_the_media_node(judge: ClipJudge, wav: bytes) -> None:
    assert (await judge.judge(PIECE, MediaSource(data=wav))).duration_s > 0


async def test_a_long_piece_becomes_overlapping_clips_with_their_own_times(judge: ClipJudge) -> None:
    windows = await judge.windows(PIECE, MediaSource(data=tone(42)), PCM, whole=False)
    assert [clip.start_s for clip, _ in windows] == [100.0, 115.0, 130.0]
    assert [window.duration_s for _, window in windows] == [20.0, 20.0, 12.0]
    assert [AT - clip.created_at for clip, _ in windows] == [timedelta(seconds=s) for s in (22, 7, 0)]
    through_media = await judge.windows(PIECE, MediaSource(data=as_wav(tone(42), PCM)), whole=False)
    assert [w.sha256 for _, w in through_media] == [w.sha256 for _, w in windows]
    resampled = await judge.windows(PIECE, MediaSource(data=tone(42, 8_000)), Pcm("s16le", 8_000), whole=False)
    assert [clip.start_s for clip, _ in resampled] == [100.0, 115.0, 130.0]


@pytest.mark.parametrize(
    ("data", "pcm", "error"),
    [
        (b"", None, InvalidInput),
        (b"", PCM, InvalidInput),
        (tone(30), PCM, InvalidInput),
        (np.full(16_000, np.nan, "<f4").tobytes(), Pcm("f32le", 16_000), InvalidInput),
        (b"this is no sound at all, only a sentence", None, UnsupportedMedia),
        (tone(30, 8_000), Pcm("s16le", 8_000), InvalidInput),
        (as_wav(tone(30, 8_000), Pcm("s16le", 8_000)), None, InvalidInput),
        (as_wav(tone(60, 8_000), Pcm("s16le", 8_000)), None, InvalidInput),
        (as_wav(tone(21), PCM), None, InvalidInput),
    ],
)
async def test_what_cannot_be_judged_is_refused(
    judge: ClipJudge, data: bytes, pcm: Pcm | None, error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        await judge.judge(PIECE, MediaSource(data=data), pcm=pcm)
    assert type(raised.value) is error


@pytest.mark.parametrize("rate", [SAMPLE_RATE_HZ, 8_000])
async def test_a_piece_longer_than_one_may_be_is_too_large_whoever_reads_it(judge: ClipJudge, rate: int) -> None:
    pcm = Pcm("s16le", rate)
    for data, given in ((tone(51, rate), pcm), (as_wav(tone(51, rate), pcm), None)):
        with pytest.raises(TooLarge, match="longer than 50 s"):
            await judge.windows(PIECE, MediaSource(data=data), given, whole=False)
    assert len(await judge.windows(PIECE, MediaSource(data=tone(49, rate)), pcm, whole=False)) == 3


async def test_a_single_clip_is_decoded_no_further_than_a_clip_may_be_long(judge: ClipJudge, nodes: LocalNodes) -> None:
    long = as_wav(tone(49, 8_000), Pcm("s16le", 8_000))
    assert MediaSettings().for_streams(20.5).max_sound_s == 21.5
    with pytest.raises(InvalidInput, match=r"longer than 20\.5 s"):
        await nodes.decode_sound(long, None, 20.5)
    (window,) = await nodes.decode_sound(as_wav(tone(20, 8_000), Pcm("s16le", 8_000)), None, 20.5)
    assert window.duration_s == pytest.approx(20.0, abs=0.05)


async def test_a_picture_has_no_sound(judge: ClipJudge, png: bytes) -> None:
    with pytest.raises(UndecodableMedia):
        await judge.judge(PIECE, MediaSource(data=png))


async def test_a_node_that_died_is_asked_once_more(nodes: LocalNodes) -> None:
    class Dying:
        calls = 0

        async def fetch(self, url: str) -> bytes:
            raise FetchFailed

        async def decode_sound(
            self, data: bytes, cut: SoundCut | None, max_s: float | None = None
        ) -> list[SoundWindow]:
            raise NodeUnavailable

        async def classify_sound(self, sound: Any, language: str | None) -> Any:
            self.calls += 1
            if self.calls == 1:
                raise NodeUnavailable
            return await nodes.classify_sound(sound, language)

    dying = Dying()
    judge = ClipJudge(dying, default_policy(), SoundCut(20.0))
    assert (await judge.judge(PIECE, MediaSource(data=tone(1)), pcm=PCM)).nsfw_score is not None
    assert dying.calls == 2
    with pytest.raises(FetchFailed):
        await judge.judge(PIECE, MediaSource(url="http://example.com/a.wav"))
