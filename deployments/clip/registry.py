"""Which visual encoders there are. A new one needs four things:

- a class that is a VisualEncoder (below);
- its FrameSpec and its name in `VisualModel`, both in settings.py: the geometry is known without loading a model,
  because the media node resizes to it in a process of its own;
- an entry in ENCODERS;
- a fusion head trained on its vectors (`parakh train-fusion`): a head refuses the vectors of any other encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from deployments.clip.frames import Frames
from deployments.clip.settings import FAKE_FRAMES, OPENNSFW_FRAMES, ClipSettings, open_clip_frames
from deployments.runtime.encoder import Encoder
from deployments.runtime.values import Embeddings, FrameSpec, TextEmbedding


class VisualEncoder(Encoder[Frames, Embeddings], Protocol):
    """Encoder of one post's frames: weight = frames, bucket = None.

    One vector a frame: leave `times_s` None, the pipeline fills in the frames' times. A video encoder gives one vector
    for each clip of several frames, and sets `times_s` (seconds at which each clip starts, rising) itself; the frames
    come without their times, one second apart unless the media node was told otherwise.
    """

    @property
    def frame_spec(self) -> FrameSpec:
        """Geometry of the frames it takes; known before `load`."""
        ...

    def embed_text(self, texts: Sequence[str]) -> Sequence[TextEmbedding | Exception]:
        """Texts in the space shared with frames. Raises NotFound where the encoder has no such space."""
        ...


class Entry(NamedTuple):
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


def _opennsfw(settings: ClipSettings) -> VisualEncoder:
    from deployments.clip.opennsfw import OpenNsfw

    return OpenNsfw(settings)


def _fake(settings: ClipSettings) -> VisualEncoder:
    from deployments.clip.fake import FakeVisualEncoder

    return FakeVisualEncoder()


ENCODERS: dict[str, Entry] = {
    "open-clip": Entry(lambda settings: open_clip_frames(settings.architecture), _open_clip),
    "opennsfw": Entry(lambda _: OPENNSFW_FRAMES, _opennsfw),
    "fake": Entry(lambda _: FAKE_FRAMES, _fake),
}
