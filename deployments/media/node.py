"""The media node without Ray: bytes or a URL in, DecodedMedia out, several decodes at a time.

Each decode runs in a killable child process; a thread here only waits for it.
"""

from __future__ import annotations

import asyncio
import io
import time
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from deployments.media.decoder import MediaDecoder, Use
from deployments.media.fetch import Fetcher
from deployments.media.settings import MediaSettings
from deployments.media.windows import SoundCut, cut_windows, sound_window
from deployments.runtime.errors import InvalidInput, TooLarge, UndecodableMedia
from deployments.runtime.health import Health
from deployments.runtime.values import SAMPLE_RATE_HZ, DecodedMedia, FrameSpec, NodeStatus, SoundWindow, Status


class MediaNode:
    def __init__(self, settings: MediaSettings, frame_spec: FrameSpec) -> None:
        self._decoder = MediaDecoder(settings, frame_spec)
        self._max_stream_sound_s = settings.max_stream_sound_s
        self._fetcher = Fetcher(settings)
        self._threads = ThreadPoolExecutor(settings.decode_workers, thread_name_prefix="decode")
        self._running: dict[object, float] = {}  # decode -> when it started; changed by the threads
        self._health = Health(
            "media",
            probe=lambda: self.decode(_one_pixel()),
            running_s=self._oldest_running_s,
            stuck_after_s=2 * settings.decode_wall_s,  # the child is killed at once that time; this is the second net
            can_probe=lambda: len(self._running) < settings.decode_workers,
        )

    async def decode(self, data: bytes) -> DecodedMedia:
        """Raises UnsupportedMedia, TooLarge or UndecodableMedia."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data)

    async def decode_sound(
        self, data: bytes, cut: SoundCut | None = None, max_s: float | None = None
    ) -> list[SoundWindow]:
        """The sound of a stream's file, whole, or cut into windows. `max_s`: of one clip; longer is InvalidInput.

        Raises UnsupportedMedia, TooLarge, or UndecodableMedia where there is no sound.
        """
        decoded = await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data, "stream", max_s)
        return await asyncio.to_thread(_windows, decoded, cut, self._max_stream_sound_s, max_s)

    async def fetch(self, url: str) -> bytes:
        """Raises UrlRefused, FetchFailed or TooLarge."""
        return await self._fetcher.fetch(url)

    async def status(self) -> NodeStatus:
        return await self._health.status(model=None)

    async def check_health(self) -> None:
        await self._health.check()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._decoder.close()

    def _oldest_running_s(self) -> float:
        now = time.monotonic()
        return now - min(tuple(self._running.values()), default=now)

    def _decode(self, data: bytes, use: Use = "post", max_s: float | None = None) -> DecodedMedia:
        job = object()
        self._running[job] = time.monotonic()
        try:
            decoded = self._decoder.decode(data, use, max_s)
        except InvalidInput:  # refused, or the end of its child: the file's doing, and no news of the node
            raise
        except Exception as error:
            self._health.failed(error)
            raise
        finally:
            del self._running[job]
        self._health.succeeded()
        return decoded


def _one_pixel() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()


def _windows(decoded: DecodedMedia, cut: SoundCut | None, max_sound_s: float, max_s: float | None) -> list[SoundWindow]:
    if decoded.sound is None or not len(decoded.sound):
        raise UndecodableMedia(decoded.audio.reason or "The file holds no sound.")
    if max_s is not None and (len(decoded.sound_blocks) > 1 or decoded.sound.size > max_s * SAMPLE_RATE_HZ):
        raise InvalidInput(f"The clip is longer than {max_s:g} s.")
    if len(decoded.sound_blocks) > 1 or (decoded.audio.status is Status.PARTIAL and _longer(decoded, max_sound_s)):
        raise TooLarge(f"The sound is longer than {max_sound_s:g} s; send it in shorter pieces.")
    if cut is None:
        return [sound_window(decoded.sound)]
    return cut_windows(decoded.sound, cut.window_s, cut.overlap_s)


def _longer(decoded: DecodedMedia, seconds: float) -> bool:
    return decoded.duration_s is not None and decoded.duration_s > seconds
