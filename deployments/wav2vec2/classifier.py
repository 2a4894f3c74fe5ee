"""The contract between a classifier of clips and its node: an Encoder whose models come and go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.runtime.encoder import Encoder
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import ModelCard
from deployments.wav2vec2.routing import Route
from deployments.wav2vec2.values import Clip, ClipScores


@dataclass(frozen=True)
class LanguageModel:
    """What the node says of one of its languages."""

    language: str
    card: ModelCard
    resident: bool
    shares_trunk_with: tuple[str, ...]  # other languages whose trunk is the same tensors
    agreement: float | None  # cosine to fp32 at its last load; None where it has not been loaded yet
    score_shift: float | None  # largest change of a category's probability at its last load


class ClipClassifier(Encoder[Clip, ClipScores], Protocol):
    """`encode` judges clips whose models are held; any other clip gets NodeUnavailable at its place."""

    def check(self, clip: object) -> InvalidInput | None:
        """Why the clip cannot be judged, before anything is spent on it."""
        ...

    def route(self, language: str | None) -> Route:
        """Which language's model judges a clip of this language."""
        ...

    def hold_resident(self, language: str | None) -> Callable[[], None] | None:
        """Keep that model in memory until the function given back is called. None where it is not there now."""
        ...

    def hold(self, language: str | None, timeout_s: float | None = None) -> Callable[[], None]:
        """The same, loading it if need be: blocks for as long as that takes.

        Raises:
            ModelError: it cannot be loaded, or is larger than the memory for models.
            DeadlineExceeded: `timeout_s` passed while others' models were in use.
        """
        ...

    def languages(self) -> Sequence[LanguageModel]: ...
