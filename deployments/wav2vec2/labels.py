"""From a checkpoint's own labels to the policy's seven categories: each label's probability goes to one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deployments.policy.policy import CATEGORIES
from deployments.runtime.errors import WrongWeights


@dataclass(frozen=True)
class LabelMap:
    """Which label is which category; a category no label stands for gets probability 0."""

    labels: tuple[str, ...]
    categories: tuple[int, ...]  # of each label, index into CATEGORIES

    def __call__(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """(labels,) -> (7,): the probabilities of labels that share a category add up."""
        by_category = np.zeros(len(CATEGORIES), np.float32)
        np.add.at(by_category, list(self.categories), probabilities)
        return by_category


def map_labels(id2label: Mapping[int, str], label_map: Mapping[str, str], path: Path) -> LabelMap:
    """Raises WrongWeights naming the labels that are no category and have no entry in `label_map`."""
    labels = tuple(str(id2label[at]) for at in sorted(id2label))
    unknown = [label for label in labels if _category(label, label_map) is None]
    if unknown:
        raise WrongWeights(
            f"{path}: label {', '.join(map(repr, unknown[:4]))} is no category ({', '.join(CATEGORIES)}); "
            "say in wav2vec2's `label_map` which one it stands for"
        )
    categories = tuple(CATEGORIES.index(_category(label, label_map) or "") for label in labels)
    if CATEGORIES.index("safe") not in categories:
        raise WrongWeights(f"{path}: no label stands for 'safe', so everything would be flagged; see `label_map`")
    return LabelMap(labels, categories)


def _category(label: str, label_map: Mapping[str, str]) -> str | None:
    if label in label_map:
        return label_map[label]
    return label.lower() if label.lower() in CATEGORIES else None
