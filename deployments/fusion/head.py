"""The fusion head: one post's embeddings in, seven calibrated scores and the segments behind them out. No torch.

FusionInput -> unit vectors (features) -> logits of the whole post and of its windows (mlp, windows)
            -> seven scores (pooling) and segments (segments) -> FusionOutput.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deployments.fusion import artefact
from deployments.fusion.artefact import FusionCard
from deployments.fusion.features import MODALITIES, Floats, FusionInput, pooled, present_vectors
from deployments.fusion.mlp import Mlp, add, layer_shapes, softmax
from deployments.fusion.pooling import post_scores
from deployments.fusion.segments import ScoredWindows, Segment, driven_scores, find_segments
from deployments.fusion.settings import WindowSettings
from deployments.fusion.windows import Track, Windows, windows_of
from deployments.policy.policy import CATEGORIES
from deployments.runtime.values import Modality, ModelCard

__all__ = ["FusionHead", "FusionInput", "FusionOutput", "Segment", "random_head"]


@dataclass(frozen=True)
class FusionOutput:
    category_scores: dict[str, float]  # seven, summing to 1
    nsfw_score: float  # 1 - P(safe)
    segments: tuple[Segment, ...]


class FusionHead:
    def __init__(
        self, details: FusionCard, tensors: Mapping[str, Floats], settings: WindowSettings | None = None
    ) -> None:
        """`tensors`: named and shaped as `mlp.layer_shapes` says, float32."""
        self.details = details
        self.settings = settings or WindowSettings()
        self.mlp = Mlp(dict(tensors), dict(details.dimensions))

    @classmethod
    def load(cls, directory: Path, settings: WindowSettings | None = None) -> FusionHead:
        """Raises MissingWeights or WrongWeights that name the file and the mismatch."""
        details, tensors = artefact.read(directory)
        return cls(details, tensors, settings)

    def save(self, directory: Path) -> None:
        artefact.write(directory, self.details, artefact.dump(self.mlp.tensors)[0])

    @property
    def card(self) -> ModelCard:
        return self.details.model_card()

    @property
    def dimensions(self) -> dict[Modality, int]:
        return dict(self.details.dimensions)

    def check_encoders(self, cards: Mapping[str, ModelCard]) -> None:
        """Modality -> card of the encoder that feeds it. Raises WrongWeights where it is another than trained on."""
        self.details.check_encoders(cards)

    def predict(self, post: FusionInput) -> FusionOutput:
        """Raises InvalidInput for a wrong dimension or nothing to judge, NodeUnavailable for an embedding that holds a
        number that is not finite."""
        vectors = present_vectors(post, self.details.dimensions)
        whole = self._logits({m: pooled(v)[None] for m, v in vectors.items()})[0]
        groups = self._scored_windows(self._tracks(post, vectors), vectors)
        pooling = self.details.pooling
        offset_groups = [(g.logits, pooling.offsets.get(g.windows.track.modality, 0.0)) for g in groups]
        scores = post_scores(whole, offset_groups, pooling.sharpness)
        driven = [(g.windows, driven_scores(self.mlp, self.details.temperature, g)) for g in groups]
        segments = find_segments(driven, self.settings.segment_floor, self.settings.max_segments)
        by_name = {name: float(score) for name, score in zip(CATEGORIES, scores, strict=True)}
        return FusionOutput(by_name, 1.0 - by_name["safe"], segments)

    def mean_scores(self, post: FusionInput) -> dict[str, float]:
        """Seven scores from the mean over frames and sound alone: what a head without windows would say."""
        vectors = present_vectors(post, self.details.dimensions)
        scores = softmax(self._logits({m: pooled(v)[None] for m, v in vectors.items()})[0])
        return {name: float(score) for name, score in zip(CATEGORIES, scores, strict=True)}

    def _logits(self, vectors: Mapping[Modality, Floats]) -> Floats:
        result: Floats = self.mlp.logits(vectors) / np.float32(self.details.temperature)
        return result

    def _tracks(self, post: FusionInput, vectors: Mapping[Modality, Floats]) -> dict[Modality, Track]:
        timed = ((Modality.VISUAL, post.frames), (Modality.AUDIO, post.sound))
        return {m: Track.of(m, vectors[m], given.times_s) for m, given in timed if given is not None and m in vectors}

    def _scored_windows(
        self, tracks: Mapping[Modality, Track], vectors: Mapping[Modality, Floats]
    ) -> list[ScoredWindows]:
        lengths = {Modality.VISUAL: self.settings.frame_windows, Modality.AUDIO: self.settings.sound_windows}
        text = None
        if Modality.TEXT in vectors:
            text = self.mlp.project(Modality.TEXT, pooled(vectors[Modality.TEXT])[None])  # (1, hidden)
        groups = [windows for m, track in tracks.items() for windows in windows_of(track, lengths[m])]
        return [self._scored(windows, tracks, text) for windows in groups]

    def _scored(self, windows: Windows, tracks: Mapping[Modality, Track], text: Floats | None) -> ScoredWindows:
        parts: dict[Modality, Floats] = {}
        for modality, track in tracks.items():
            distinct, which = windows.vectors(track)
            parts[modality] = self.mlp.project(modality, distinct)[which]
        if text is not None:
            parts[Modality.TEXT] = np.repeat(text, len(windows.first), axis=0)
        total = add(parts.values())
        logits = self.mlp.finish(total) / np.float32(self.details.temperature)
        return ScoredWindows(windows, parts, total, logits)


def random_head(dimensions: Mapping[Modality, int], seed: int, hidden: tuple[int, int] = (256, 128)) -> FusionHead:
    """A head of random weights (He et al. 2015), for tests and throughput: its card says `random`."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Floats] = {}
    for name, shape in layer_shapes(dimensions, hidden, len(CATEGORIES)).items():
        gain = np.sqrt(2.0 / (len(MODALITIES) if name.startswith("layers.0") else shape[-1]))
        tensors[name] = (rng.standard_normal(shape) * gain * name.endswith("weight")).astype(np.float32)
    details = FusionCard(
        version=f"random-{seed}",
        weights="random",
        dimensions=dimensions,
        hidden=hidden,
        seed=seed,
        note="random weights: its scores mean nothing",
        weights_sha256=artefact.dump(tensors)[1],
    )
    return FusionHead(details, tensors)
