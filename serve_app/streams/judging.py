"""What happens to a stream's sound: bytes or URL -> 16 kHz samples -> windows -> the node's scores -> ClipResult.

No Ray here: the nodes come through ClipNodes. What the windows of a stream add up to is the records' business, in the
transaction that stores them (`state.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from deployments.media.windows import SoundCut, cut_windows, sound_window
from deployments.policy.policy import Policy
from deployments.runtime.errors import DeadlineExceeded, InvalidInput, NodeUnavailable, TooLarge
from deployments.runtime.values import SAMPLE_RATE_HZ, SoundWindow
from deployments.wav2vec2.values import ClipScores
from serve_app.posts import MediaSource, ModelReport
from serve_app.streams.pcm import Pcm, Samples, as_wav, read_pcm, read_wav
from serve_app.streams.values import Clip, ClipResult

T = TypeVar("T")


class ClipNodes(Protocol):
    """The part of NodeHandles that streams need."""

    async def fetch(self, url: str) -> bytes: ...

    async def decode_sound(
        self, data: bytes, cut: SoundCut | None, max_s: float | None = None
    ) -> list[SoundWindow]: ...

    async def classify_sound(self, sound: Any, language: str | None) -> ClipScores: ...


class ClipJudge:
    """The moderator of livestreams, behind every door."""

    def __init__(
        self,
        nodes: ClipNodes,
        policy: Policy,
        cut: SoundCut,
        *,
        max_clip_s: float | None = None,
        max_sound_s: float | None = None,
    ) -> None:
        """`cut`: how sound of any length becomes clips.

        max_clip_s, max_sound_s: longest single clip, and longest piece, that is read at all; None: the nodes' business.
        """
        self._nodes = nodes
        self._policy = policy
        self._cut = cut
        self._max_clip_s = max_clip_s
        self._max_sound_s = max_sound_s

    async def judge(
        self, clip: Clip, sound: MediaSource, *, pcm: Pcm | None = None, deadline_s: float | None = None
    ) -> ClipResult:
        """One clip. `pcm`: the bytes are bare samples.

        Raises:
            InvalidInput: no sound, not finite, too long or too short.
            UnsupportedMedia, UndecodableMedia, TooLarge: what the media node says of the bytes.
            UrlRefused, FetchFailed: of a URL.
            NodeUnavailable, Overloaded, ModelError: the graph's state; DeadlineExceeded: `deadline_s` passed.
            LanguageModelUnavailable: the clip's language's.
        """
        try:
            async with asyncio.timeout(deadline_s):
                (one,) = await self.windows(clip, sound, pcm, whole=True)
                return await self.score(*one)
        except TimeoutError:
            raise DeadlineExceeded from None

    async def windows(
        self, piece: Clip, sound: MediaSource, pcm: Pcm | None = None, *, whole: bool
    ) -> list[tuple[Clip, SoundWindow]]:
        """Sound that begins at `piece.start_s` and ended at `piece.created_at` as clips: one, or as many as it takes.

        Raises as `judge`.
        """
        windows = await self._windows(sound, pcm, None if whole else self._cut)
        end_s = max(window.start_s + window.duration_s for window in windows)
        return [(_clip_of(piece, window, end_s), window) for window in windows]

    async def score(self, clip: Clip, window: SoundWindow) -> ClipResult:
        """Raises as `judge`."""
        began = time.perf_counter()
        scores = await _retried(lambda: self._nodes.classify_sound(window.sound, clip.language))
        timings_s = {"wav2vec2": round(time.perf_counter() - began, 4)}
        return _result(clip, window, scores, self._policy.version, timings_s)

    async def _windows(self, source: MediaSource, pcm: Pcm | None, cut: SoundCut | None) -> list[SoundWindow]:
        data = source.data if source.url is None else await _retried(lambda: self._nodes.fetch(source.url or ""))
        if not data:
            raise InvalidInput("The clip has no sound: it is empty.")
        if pcm is not None:
            self._check_length(len(data) / (pcm.frame_bytes * pcm.rate_hz), cut)
        samples = await _off_loop(data, pcm)
        if samples is None:
            container = data if pcm is None else as_wav(data, pcm)
            max_s = self._max_clip_s if cut is None else None
            return await _retried(lambda: self._nodes.decode_sound(container, cut, max_s))
        self._check_length(len(samples) / SAMPLE_RATE_HZ, cut)
        if cut is None:
            return [await asyncio.to_thread(sound_window, samples)]
        return await asyncio.to_thread(cut_windows, samples, cut.window_s, cut.overlap_s)

    def _check_length(self, seconds: float, cut: SoundCut | None) -> None:
        """As the media node says it of what it decodes."""
        if cut is None and self._max_clip_s is not None and seconds > self._max_clip_s:
            raise InvalidInput(f"The clip is longer than {self._max_clip_s:g} s.")
        if self._max_sound_s is not None and seconds > self._max_sound_s:
            raise TooLarge(f"The sound is longer than {self._max_sound_s:g} s; send it in shorter pieces.")


def _clip_of(piece: Clip, window: SoundWindow, end_s: float) -> Clip:
    """A window's own start, and when its last sample was recorded."""
    after_s = end_s - (window.start_s + window.duration_s)
    return piece.model_copy(
        update={
            "start_s": round(piece.start_s + window.start_s, 3),
            "created_at": piece.created_at - timedelta(seconds=after_s),
        }
    )


def _result(
    clip: Clip, window: SoundWindow, scores: ClipScores, policy_version: str, timings_s: dict[str, float]
) -> ClipResult:
    decided_at = datetime.now(UTC)
    model = scores.model
    return ClipResult(
        stream_id=clip.stream_id,
        start_s=clip.start_s,
        duration_s=round(window.duration_s, 3),
        created_at=clip.created_at,
        decided_at=decided_at,
        age_s=round((decided_at - clip.created_at).total_seconds(), 3),
        language=clip.language,
        model_language=scores.model_language,
        fallback=scores.fallback,
        skipped=scores.skipped,
        speech_s=scores.speech_s,
        nsfw_score=scores.nsfw_score,
        category_scores=scores.category_scores,
        policy_version=policy_version,
        model=None if model is None else ModelReport(**{key: getattr(model, key) for key in ModelReport.model_fields}),
        sound_sha256=window.sha256,
        timings_s=timings_s,
    )


async def _off_loop(data: bytes, pcm: Pcm | None) -> Samples | None:
    """A clip of 20 s is 640 kB: a hop to a thread costs less than holding the event loop."""
    if pcm is not None:
        return await asyncio.to_thread(read_pcm, data, pcm)
    return await asyncio.to_thread(read_wav, data) if data[:4] == b"RIFF" else None


async def _retried(call: Callable[[], Awaitable[T]]) -> T:
    """Ask once more where the replica died under the call."""
    try:
        return await call()
    except NodeUnavailable:
        return await call()
