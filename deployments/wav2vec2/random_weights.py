"""wav2vec2-base's true shape with untrained weights: for benchmarks and load tests, never a fallback.

It costs what the real one costs and its probabilities mean nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.policy.policy import CATEGORIES
from deployments.runtime.device import resolve_precision
from deployments.runtime.values import ModelCard
from deployments.wav2vec2.checkpoint import Checkpoint
from deployments.wav2vec2.labels import map_labels
from deployments.wav2vec2.settings import Wav2Vec2Settings

if TYPE_CHECKING:
    import torch

_SEED = 0


def base_config() -> Any:
    """config.json of facebook/wav2vec2-base (transformers' defaults), with the seven categories as labels."""
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(
        id2label=dict(enumerate(CATEGORIES)),
        label2id={name: at for at, name in enumerate(CATEGORIES)},
        mask_time_prob=0.0,
        mask_feature_prob=0.0,
    )


def open_random(settings: Wav2Vec2Settings) -> Checkpoint:
    """The same weights in every process; every language has them, and so shares one trunk."""
    config = base_config()
    card = ModelCard(
        name="wav2vec2-base",
        version="random-1",
        weights="random",
        dimension=0,
        device=settings.device,
        precision=resolve_precision(settings),
        note="untrained weights of the true shape: the probabilities mean nothing",
    )
    labels = map_labels(config.id2label, {}, Path("random weights"))
    return Checkpoint("random weights", config, True, labels, card, "random-1", None)


def random_state(config: Any) -> dict[str, torch.Tensor]:
    """As transformers initialises the model before training, always from the same seed."""
    import torch
    from transformers import Wav2Vec2ForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return dict(Wav2Vec2ForSequenceClassification(config).state_dict())
