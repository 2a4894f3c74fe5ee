"""Files as the system sees them: decoded and signed by the media node, embedded by the local profile's encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.clip.registry import VisualEncoder, frame_spec, make_encoder
from deployments.clip.settings import ClipSettings
from deployments.media.decode import decode_in_process
from deployments.media.settings import MediaSettings
from deployments.runtime.values import Embeddings
from deployments.similarity.content import FrameSignatures
from deployments.similarity.uses.signatures import frame_signatures
from deployments.similarity.values import FrameVectors


@dataclass(frozen=True)
class Seen:
    source: str  # which photo or video it is a copy of
    edit: str  # "" for the original
    sha256: str
    duration_s: float | None
    signatures: FrameSignatures
    vectors: NDArray[np.float32]  # (n, d) of its frames
    times_s: NDArray[np.float32]  # (n,)

    @property
    def mean(self) -> NDArray[np.float32]:
        """(d,): what the index holds."""
        mean: NDArray[np.float32] = self.vectors.mean(axis=0)
        return mean

    def frames(self, centre: NDArray[np.float32] | float = 0.0) -> FrameVectors:
        return FrameVectors((self.vectors - centre).astype(np.float16), self.times_s)


class Eye:
    """Raises MissingWeights where the local profile's weights are not installed."""

    def __init__(self) -> None:
        settings = ClipSettings()
        self._encoder: VisualEncoder = make_encoder(settings)
        self._encoder.load()
        self._spec, self._media = frame_spec(settings), MediaSettings()

    @property
    def model(self) -> str:
        return self._encoder.card.name

    def look(self, source: str, edit: str, data: bytes) -> Seen:
        media = decode_in_process(data, self._media, self._spec)
        assert media.frames is not None
        assert media.frame_times_s is not None
        signatures = frame_signatures(media.pdq_hashes, media.pdq_quality, media.pdq_times_s)
        embedded = self._encoder.encode([media.frames])[0]
        assert signatures is not None
        assert isinstance(embedded, Embeddings)
        return Seen(source, edit, media.sha256, media.duration_s, signatures, embedded.vectors, media.frame_times_s)
