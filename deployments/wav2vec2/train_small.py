"""Trains the small wav2vec2 on stand-in sounds: `python -m deployments.wav2vec2.train_small`, two minutes on one core.

Each category is a kind of generated sound (`runtime/stand_in_sounds.py`); a third of the unsafe clips have theirs for
only a part of the time, over a safe background, and some safe ones are silence. What comes out is a Hugging Face
directory like any fine-tuned checkpoint's, with a card of what it is worth: it shows that the node works, and says
nothing of real speech.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deployments.policy.policy import CATEGORIES
from deployments.runtime.stand_in_sounds import Sound, sound
from deployments.runtime.values import SAMPLE_RATE_HZ
from deployments.runtime.weights import file_sha256
from deployments.wav2vec2.artefact import artefacts
from deployments.wav2vec2.files import WEIGHTS_NAME
from deployments.wav2vec2.preprocess import prepare
from deployments.wav2vec2.settings import SMALL

NOTE = "Trained here on generated sound: tells kinds of generated sound apart; not a judgement of real speech."

SHAPE: dict[str, Any] = {
    "conv_dim": (16, 32, 32, 48, 48, 64, 64),  # base's kernels and strides: a frame every 20 ms
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 8,
    "classifier_proj_size": 64,
}
_BATCH = 32
_SILENT = 0.1  # share of the safe clips
_PARTLY = 1 / 3  # share of the unsafe clips that are unsafe for a part of their time only


@dataclass(frozen=True)
class Recipe:
    """Everything the weights depend on, beside SHAPE."""

    seed: int = 20240611
    seconds: float = 1.6
    train_per_category: int = 220
    held_out_per_category: int = 60
    epochs: int = 12
    learning_rate: float = 2e-3


class Clips(NamedTuple):
    samples: NDArray[np.float32]  # (n, samples)
    category: NDArray[np.int64]  # (n,) index into CATEGORIES
    sha256: str  # of the samples as 16-bit integers


class Trained(NamedTuple):
    model: Any
    report: dict[str, object]


def train(recipe: Recipe) -> Trained:
    """The model and a report on held-out sound. One recipe, one result, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    training = make_clips(recipe.train_per_category, recipe.seconds, recipe.seed)
    model = _fit(recipe, training)
    held_out = make_clips(recipe.held_out_per_category, recipe.seconds, recipe.seed + 1)
    long = make_clips(max(1, recipe.held_out_per_category // 10), 20.0, recipe.seed + 2)
    report = {
        "recipe": asdict(recipe),
        "training_data_sha256": training.sha256,
        "held_out_data_sha256": held_out.sha256,
        "held_out_clips": len(held_out.category),
        "held_out_accuracy": _accuracy(model, held_out),
        "held_out_recall_per_category": _recalls(model, held_out),
        "held_out_20_s_clips": len(long.category),
        "held_out_20_s_accuracy": _accuracy(model, long),
    }
    return Trained(model, report)


def make_clips(per_category: int, seconds: float, seed: int) -> Clips:
    random, digest = np.random.default_rng(seed), hashlib.sha256()
    clips = []
    for category in CATEGORIES:
        for _ in range(per_category):
            samples = _make_clip(category, seconds, random)
            digest.update(np.round(samples * 32767).astype("<i2").tobytes())
            clips.append(prepare(samples, do_normalize=True))
    labels = np.repeat(np.arange(len(CATEGORIES)), per_category)
    return Clips(np.stack(clips), labels, digest.hexdigest())


def _make_clip(category: str, seconds: float, random: np.random.Generator) -> Sound:
    if category == "safe" and random.random() < _SILENT:
        level = 0.0 if random.random() < 0.5 else 10 ** (random.uniform(-80, -50) / 20)
        return (level * random.standard_normal(round(seconds * SAMPLE_RATE_HZ))).astype(np.float32)
    clip = sound(category, seconds, random)
    if category == "safe" or random.random() > _PARTLY:
        return clip
    length = round(len(clip) * random.uniform(0.4, 0.8))
    start = int(random.integers(len(clip) - length + 1))
    partly = sound("safe", seconds, random) * np.float32(0.3)
    partly[start : start + length] = clip[start : start + length]
    return partly


def _fit(recipe: Recipe, clips: Clips) -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    still = dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "layerdrop"), 0.0)
    masks = {"final_dropout": 0.0, "feat_proj_dropout": 0.0, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    names = {"id2label": dict(enumerate(CATEGORIES)), "label2id": {name: at for at, name in enumerate(CATEGORIES)}}
    model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SHAPE, **still, **masks, **names))
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=1e-2)
    steps = recipe.epochs * -(-len(clips.category) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps)
    samples, category = torch.from_numpy(clips.samples), torch.from_numpy(clips.category)
    for batch in _batches(len(category), recipe):
        loss = nn.functional.cross_entropy(model(samples[batch]).logits, category[batch], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval()


def _batches(count: int, recipe: Recipe) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        yield from torch.randperm(count, generator=generator).split(_BATCH)  # type: ignore[no-untyped-call]


@torch.inference_mode()
def _found(model: Any, clips: Clips) -> NDArray[np.int64]:
    parts = torch.from_numpy(clips.samples).split(16)  # type: ignore[no-untyped-call]
    found: NDArray[np.int64] = torch.cat([model(part).logits.argmax(1) for part in parts]).numpy()
    return found


def _accuracy(model: Any, clips: Clips) -> float:
    return round(float((_found(model, clips) == clips.category).mean()), 4)


def _recalls(model: Any, clips: Clips) -> dict[str, float]:
    right = _found(model, clips) == clips.category
    return {name: round(float(right[clips.category == at].mean()), 4) for at, name in enumerate(CATEGORIES)}


def write(trained: Trained, directory: Path) -> None:
    """A Hugging Face directory (config, weights, preprocessor) and the card that says what it is worth."""
    from transformers import Wav2Vec2FeatureExtractor

    directory.mkdir(parents=True, exist_ok=True)
    trained.model.save_pretrained(directory)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(directory)
    sha256 = file_sha256(directory / WEIGHTS_NAME)
    card = {"name": SMALL, "weights": "trained-here", "note": NOTE, "sha256": sha256}
    (directory / "card.json").write_text(json.dumps({**card, **trained.report}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=artefacts() / SMALL)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    arguments = parser.parse_args()
    trained = train(Recipe(seed=arguments.seed))
    write(trained, arguments.out)
    print(json.dumps(trained.report, indent=2))


if __name__ == "__main__":
    main()
