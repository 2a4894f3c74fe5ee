"""Tiny checkpoints in Hugging Face's own format, and the classifier over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from deployments.policy.policy import CATEGORIES
from deployments.wav2vec2.encoder import Wav2Vec2Classifier
from deployments.wav2vec2.settings import Wav2Vec2Settings

Array = NDArray[np.float32]
TINY: dict[str, Any] = {
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 4),
    "num_feat_extract_layers": 3,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 12,
}
"""The first frame takes 165 samples, each one more 160."""


def make_tiny(
    directory: Path, seed: int = 0, *, labels: tuple[str, ...] = CATEGORIES, do_normalize: bool = True, **changes: Any
) -> Path:
    """`directory` with a randomly initialised checkpoint, as `save_pretrained` writes it."""
    config = Wav2Vec2Config(**(TINY | {"id2label": dict(enumerate(labels))} | changes))
    torch.manual_seed(seed)
    model = Wav2Vec2ForSequenceClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "layer_norm" in name or "layer_weights" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)  # fresh ones are 0 and 1, which hides mistakes
            elif "classifier" in name or "projector" in name:
                parameter.mul_(20)
    model.save_pretrained(directory)
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(directory)
    return directory


def with_other_head(trunk: Path, directory: Path, seed: int, *, do_normalize: bool = True, **changes: Any) -> Path:
    """A checkpoint of the same trunk under another head."""
    from safetensors.torch import load_file, save_file

    make_tiny(directory, seed, do_normalize=do_normalize, **changes)
    state, shared = load_file(directory / "model.safetensors"), load_file(trunk / "model.safetensors")
    state |= {name: tensor for name, tensor in shared.items() if name.startswith("wav2vec2.")}
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny(tmp_path / "tiny")


def loaded(models: dict[str, Path | str], default: str | None = None, **changes: Any) -> Wav2Vec2Classifier:
    """torch fp32 on one thread unless told otherwise."""
    given = {tag: str(path) for tag, path in models.items()}
    plain = {"runtime": "torch", "precision": "fp32", "models": given, "default": default or next(iter(given))}
    classifier = Wav2Vec2Classifier(Wav2Vec2Settings(**plain | changes))
    classifier.load()
    return classifier


def sound(samples: int, seed: int = 0) -> Array:
    """A tone in noise, off centre, so that normalisation matters."""
    random = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * random.uniform(100, 2000) * np.arange(samples) / 16_000)
    made: Array = (0.1 * tone + 0.05 * random.standard_normal(samples) + 0.03).astype(np.float32)
    return made


def reference(directory: Path, samples: Array) -> Array:
    """(labels,) logits of transformers' own model and preprocessor on the clip alone."""
    model = Wav2Vec2ForSequenceClassification.from_pretrained(directory).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(directory)
    inputs = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.inference_mode():
        logits: Array = model(inputs).logits[0].numpy()
    return logits
