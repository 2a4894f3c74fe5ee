"""A head without weights, for tests of the graph: scores follow from the vectors by a rule that can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deployments.fusion.features import MODALITIES, FusionInput, present_vectors
from deployments.fusion.head import FusionOutput
from deployments.policy.policy import CATEGORIES
from deployments.runtime.errors import ParakhError
from deployments.runtime.values import Modality, ModelCard


class FakeFusion:
    """`unsafe` is the probability it gives `category` for any post; the rest is `safe`. Input is checked as by the
    real head, and every post it saw is kept in `seen`."""

    def __init__(
        self, dimensions: Mapping[Modality, int] | None = None, *, category: str = "violence", unsafe: float = 0.1
    ) -> None:
        self._dimensions = dict(dimensions or dict.fromkeys(MODALITIES, 8))
        self.category, self.unsafe = category, unsafe
        self.seen: list[FusionInput] = []

    @property
    def card(self) -> ModelCard:
        return ModelCard("fake-fusion", "1", "random", 0, note="a fake for tests")

    @property
    def dimensions(self) -> dict[Modality, int]:
        return dict(self._dimensions)

    def check_encoders(self, cards: Mapping[str, ModelCard]) -> None:
        """Takes any."""

    def predict(self, post: FusionInput) -> FusionOutput:
        present_vectors(post, self._dimensions)
        self.seen.append(post)
        scores = dict.fromkeys(CATEGORIES, 0.0) | {"safe": 1.0 - self.unsafe, self.category: self.unsafe}
        return FusionOutput(scores, self.unsafe, ())

    def predict_batch(self, posts: Sequence[FusionInput]) -> list[FusionOutput | Exception]:
        results: list[FusionOutput | Exception] = []
        for post in posts:
            try:
                results.append(self.predict(post))
            except ParakhError as error:
                results.append(error)
        return results
