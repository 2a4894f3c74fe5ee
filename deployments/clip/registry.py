"""Which visual encoders there are. A new one (a video encoder, say) is a class, a FrameSpec and one line here.

The frame geometry is known without loading a model: the media node resizes to it in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from deployments.clip.frames import Frames
from deployments.clip.settings import GEOMETRY, ClipSettings
from deployments.runtime.encoder import Encoder
from deployments.runtime.values import Embeddings, FrameSpec, TextEmbedding


class VisualEncoder(Encoder[Frames, Embeddings], Protocol):
    """Encoder of one post's frames: weight = frames, bucket = None."""

    @property
    def frame_spec(self) -> FrameSpec:
        """Geometry of the frames it takes; known before `load`."""
        ...

    def embed_text(self, texts: Sequence[str]) -> Sequence[TextEmbedding | Exception]:
        """Texts in the space shared with frames. Raises NotFound where the encoder has no such space."""
        ...


class _Entry(NamedTuple):
    frame_spec: Callable[[ClipSettings], FrameSpec]
    make: Callable[[ClipSettings], VisualEncoder]


def make_encoder(settings: ClipSettings) -> VisualEncoder:
    """The encoder the settings name, not yet loaded."""
    return ENCODERS[settings.model].make(settings)


def frame_spec(settings: ClipSettings) -> FrameSpec:
    """Geometry of the frames that encoder takes. Imports no model library."""
    return ENCODERS[settings.model].frame_spec(settings)


def _open_clip(settings: ClipSettings) -> VisualEncoder:
    from deployments.clip.open_clip_trunk import OpenClipTrunk

    return OpenClipTrunk(settings)


def _open_clip_spec(settings: ClipSettings) -> FrameSpec:
    side = GEOMETRY[settings.architecture].image_size
    return FrameSpec(mode="shortest_side", resize=side, crop=side, interpolation="bicubic")


def _opennsfw(settings: ClipSettings) -> VisualEncoder:
    from deployments.clip.opennsfw import OpenNsfw

    return OpenNsfw(settings)


def _opennsfw_spec(settings: ClipSettings) -> FrameSpec:
    return FrameSpec(mode="stretch", resize=256, crop=224, interpolation="bilinear")


def _fake(settings: ClipSettings) -> VisualEncoder:
    from deployments.clip.fake import FakeVisualEncoder

    return FakeVisualEncoder()


def _fake_spec(settings: ClipSettings) -> FrameSpec:
    return FrameSpec()


ENCODERS: dict[str, _Entry] = {
    "open-clip": _Entry(_open_clip_spec, _open_clip),
    "opennsfw": _Entry(_opennsfw_spec, _opennsfw),
    "fake": _Entry(_fake_spec, _fake),
}
