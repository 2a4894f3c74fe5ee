"""Sound at the HTTP door: cut -> clips that are known already are left out -> scores -> stored in order of time.

Each clip is stored when its turn comes, so a deadline in the middle of a long piece loses nothing that was judged: the
same piece sent again goes on where it broke off.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Protocol

from deployments.runtime.errors import DeadlineExceeded, NotFound
from deployments.runtime.values import SoundWindow
from serve_app.posts import MediaSource
from serve_app.streams.pcm import Pcm
from serve_app.streams.values import Clip, ClipResult, StreamState

AT_ONCE = 8  # clips of one piece that wait for the node together


class ClipModerator(Protocol):
    """`judging.ClipJudge` says what is raised."""

    async def windows(
        self, piece: Clip, sound: MediaSource, pcm: Pcm | None = None, *, whole: bool
    ) -> list[tuple[Clip, SoundWindow]]: ...

    async def score(self, clip: Clip, window: SoundWindow) -> ClipResult: ...


class ClipStore(Protocol):
    async def find_clip(self, stream_id: str, start_ms: int) -> ClipResult:
        """Raises NotFound."""
        ...

    async def add(self, result: ClipResult) -> tuple[ClipResult, StreamState, bool]:
        """The stored result, the stream's state, and whether the clip had been there. Raises Conflict, StreamErased."""
        ...


@dataclass(frozen=True)
class Taken:
    clips: list[ClipResult]
    state: StreamState
    replayed: bool  # every clip had been there before


class StreamIntake:
    def __init__(self, judge: ClipModerator, store: ClipStore) -> None:
        self._judge = judge
        self._store = store

    async def take(
        self, piece: Clip, sound: MediaSource, pcm: Pcm | None = None, *, whole: bool, deadline_s: float
    ) -> Taken:
        """`whole`: the sound is one clip, as it is. Raises what the judge and the store raise, and DeadlineExceeded."""
        try:
            async with asyncio.timeout(deadline_s):
                return await self._taken(await self._judge.windows(piece, sound, pcm, whole=whole))
        except TimeoutError:
            raise DeadlineExceeded from None

    async def _taken(self, windows: list[tuple[Clip, SoundWindow]]) -> Taken:
        turn = asyncio.Semaphore(AT_ONCE)
        judging = [asyncio.create_task(self._result(turn, clip, window)) for clip, window in windows]
        try:
            added = [await self._store.add(await task) for task in judging]
        finally:
            for task in judging:
                task.cancel()
            await asyncio.gather(*judging, return_exceptions=True)
        return Taken([clip for clip, _, _ in added], added[-1][1], all(replayed for _, _, replayed in added))

    async def _result(self, turn: asyncio.Semaphore, clip: Clip, window: SoundWindow) -> ClipResult:
        with contextlib.suppress(NotFound):
            known = await self._store.find_clip(clip.stream_id, clip.start_ms)
            if known.sound_sha256 == window.sha256:
                return known
        async with turn:
            return await self._judge.score(clip, window)
