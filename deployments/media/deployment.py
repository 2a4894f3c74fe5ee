"""The media node, served. Frames and sound stay in shared memory: the caller gets references."""

from __future__ import annotations

import dataclasses
from typing import Any

import ray
from ray import serve

from deployments.media.node import MediaNode
from deployments.media.settings import MediaSettings
from deployments.media.windows import SoundCut
from deployments.runtime.values import DecodedMedia, FrameSpec, SoundWindow


@serve.deployment(name="media")
class MediaDeployment(MediaNode):
    def __init__(self, settings: MediaSettings, frame_spec: FrameSpec) -> None:
        super().__init__(settings, frame_spec)

    async def decode_shared(self, data: bytes) -> tuple[DecodedMedia, Any, Any]:
        """(media without its arrays, reference to the frames or None, reference to the sound or None)."""
        decoded = await self.decode(data)
        frames = None if decoded.frames is None else ray.put(decoded.frames)
        sound = None if decoded.sound is None else ray.put(decoded.sound)
        return dataclasses.replace(decoded, frames=None, sound=None), frames, sound

    async def fetch_and_decode_shared(self, url: str) -> tuple[DecodedMedia, Any, Any]:
        return await self.decode_shared(await self.fetch(url))

    async def decode_sound_shared(
        self, data: bytes, cut: SoundCut | None, max_s: float | None = None
    ) -> list[SoundWindow]:
        """The windows' samples as references."""
        windows = await self.decode_sound(data, cut, max_s)
        return [dataclasses.replace(window, sound=ray.put(window.sound)) for window in windows]
