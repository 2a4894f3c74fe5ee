"""Trains the small VGGish on generated sound: `python -m deployments.vggish.train_small`, under a minute on one core.

Three tasks from the same 128 values: tell the kind of sound; give back a coarse picture of the log-mel; find the worse
copy of a sound among others (the last two keep sounds of one kind apart). The heads are thrown away; the network and a
card of what it is worth are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deployments.vggish.artefact import CARD_NAME, WEIGHTS_NAME, artefacts
from deployments.vggish.generated_sound import KINDS, generate
from deployments.vggish.log_mel import EXAMPLE_SAMPLES, log_mel_examples
from deployments.vggish.network import EMBEDDING, VggishNetwork
from deployments.vggish.settings import SMALL_WIDTH

NOTE = "Trained here on generated sound: tells kinds of generated sound apart; not a judgement of real sound."

_PICTURE = (8, 16)  # time x bands of the coarse log-mel
_BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """Everything the weights depend on."""

    seed: int = 20240607
    width: int = SMALL_WIDTH
    train_per_kind: int = 400
    held_out_per_kind: int = 100
    epochs: int = 7
    learning_rate: float = 2e-3
    picture_weight: float = 0.3
    copy_weight: float = 0.1


class Sounds(NamedTuple):
    log_mel: Tensor  # (n, 96, 64)
    noisy: Tensor  # (n, 96, 64) of a quieter, noisier copy of each
    kind: Tensor  # (n,) index into KINDS
    sha256: str  # of the samples as 16-bit integers


class Trained(NamedTuple):
    state_dict: dict[str, Tensor]
    report: dict[str, object]


def train(recipe: Recipe) -> Trained:
    """State dict of the network and a report on held-out sound. One recipe, one result, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    training = make_sounds(recipe.train_per_kind, recipe.seed)
    held_out = make_sounds(recipe.held_out_per_kind, recipe.seed + 1)
    network, kind_head = _fit(recipe, training)
    report = {
        "recipe": asdict(recipe),
        "kinds": list(KINDS),
        "training_data_sha256": training.sha256,
        "held_out_data_sha256": held_out.sha256,
        **_held_out_report(network, kind_head, training, held_out),
    }
    return Trained({name: tensor.detach().clone() for name, tensor in network.state_dict().items()}, report)


def make_sounds(per_kind: int, seed: int) -> Sounds:
    random, digest = np.random.default_rng(seed), hashlib.sha256()
    clean, noisy = [], []
    for kind in KINDS:
        for _ in range(per_kind):
            samples = generate(kind, EXAMPLE_SAMPLES / 16_000, random)
            digest.update(np.round(samples * 32767).astype("<i2").tobytes())
            clean.append(log_mel_examples(samples)[0])
            noisy.append(log_mel_examples(_worse_copy(samples, random))[0])
    kinds = torch.arange(len(KINDS)).repeat_interleave(per_kind)
    return Sounds(torch.from_numpy(np.stack(clean)), torch.from_numpy(np.stack(noisy)), kinds, digest.hexdigest())


def _worse_copy(samples: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """The same sound 6 dB quieter, 40 ms later, with noise 25 dB below its peak."""
    late = np.concatenate([np.zeros(640, np.float32), samples[:-640]]) * np.float32(0.5)
    hiss = random.standard_normal(len(late)) * np.abs(late).max() * 0.3 * 10 ** (-25 / 20)
    worse: NDArray[np.float32] = (late + hiss).astype(np.float32)
    return worse


def _fit(recipe: Recipe, sounds: Sounds) -> tuple[VggishNetwork, nn.Linear]:
    network, kind_head = _initialised(recipe.width), nn.Linear(EMBEDDING, len(KINDS))
    picture_head = nn.Linear(EMBEDDING, _PICTURE[0] * _PICTURE[1])
    parameters = [*network.parameters(), *kind_head.parameters(), *picture_head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=1e-3)
    steps = recipe.epochs * -(-len(sounds.kind) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps)
    for batch in _batches(len(sounds.kind), recipe):
        log_mel = torch.cat([sounds.log_mel[batch], sounds.noisy[batch]])  # originals, then their copies
        embedding = network(log_mel)
        loss = nn.functional.cross_entropy(kind_head(embedding), sounds.kind[batch].repeat(2))
        loss = loss + recipe.picture_weight * nn.functional.mse_loss(picture_head(embedding), _picture(log_mel))
        loss = loss + recipe.copy_weight * _copy_loss(embedding)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval(), kind_head


def _initialised(width: int) -> VggishNetwork:
    """He et al. 2015: torch's own initialisation lets the signal of nine narrow layers die out."""
    network = VggishNetwork(width)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            nn.init.zeros_(parameter)
    return network


def _copy_loss(embedding: Tensor) -> Tensor:
    """InfoNCE (van den Oord et al. 2018) between the batch's first half and second, temperature 0.1."""
    originals, copies = nn.functional.normalize(embedding - embedding.mean(0), dim=1).chunk(2)
    similarity = originals @ copies.T / 0.1
    own = torch.arange(len(originals))
    return (nn.functional.cross_entropy(similarity, own) + nn.functional.cross_entropy(similarity.T, own)) / 2


def _batches(count: int, recipe: Recipe) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        yield from torch.randperm(count, generator=generator).split(_BATCH)  # type: ignore[no-untyped-call]


def _picture(log_mel: Tensor) -> Tensor:
    return nn.functional.adaptive_avg_pool2d(log_mel, _PICTURE).flatten(1)


@torch.inference_mode()
def _held_out_report(
    network: VggishNetwork, kind_head: nn.Linear, training: Sounds, held_out: Sounds
) -> dict[str, object]:
    embedding, copies = network(held_out.log_mel), network(held_out.noisy)
    found = kind_head(embedding).argmax(1)
    per_kind = {name: round(float((found[held_out.kind == i] == i).float().mean()), 4) for i, name in enumerate(KINDS)}
    return {
        "held_out_accuracy": round(float((found == held_out.kind).float().mean()), 4),
        "held_out_accuracy_per_kind": per_kind,
        "baseline_log_mel_mean_accuracy": round(_baseline_accuracy(training, held_out), 4),
        "worse_copy_recall_at_1": round(_recall_at_1(embedding, copies), 4),
        "baseline_log_mel_mean_recall_at_1": round(_recall_at_1(held_out.log_mel.mean(1), held_out.noisy.mean(1)), 4),
        "silent_units": int((embedding.amax(0) <= 0).sum()),
    }


def _baseline_accuracy(training: Sounds, held_out: Sounds) -> float:
    """Ridge-free softmax regression on the mean log-mel of each sound, by L-BFGS."""
    with torch.inference_mode(False), torch.enable_grad():
        mean, spread = training.log_mel.mean((0, 1)), training.log_mel.std((0, 1))
        inputs = (training.log_mel.mean(1) - mean) / spread
        head = nn.Linear(inputs.shape[1], len(KINDS))
        optimiser = torch.optim.LBFGS(head.parameters(), max_iter=300, line_search_fn="strong_wolfe")

        def closure() -> float:
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(head(inputs), training.kind)
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        found = head((held_out.log_mel.mean(1) - mean) / spread).argmax(1)
    return float((found == held_out.kind).float().mean())


def _recall_at_1(originals: Tensor, copies: Tensor) -> float:
    """Share of copies whose nearest original (cosine, mean removed) is their own."""
    centre = originals.mean(0)
    left, right = (nn.functional.normalize(x - centre, dim=1) for x in (copies, originals))
    return float(((left @ right.T).argmax(1) == torch.arange(len(copies))).float().mean())


def write(trained: Trained, folder: Path) -> None:
    """The two files of the artefact: weights as safetensors, and the card that says what they are worth."""
    from safetensors.torch import save

    data = save(trained.state_dict)
    sha256 = hashlib.sha256(data).hexdigest()
    card = {"name": "vggish-small", "version": f"1-{sha256[:8]}", "weights": "trained-here", "note": NOTE}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_NAME).write_bytes(data)
    (folder / CARD_NAME).write_text(json.dumps({**card, "sha256": sha256, **trained.report}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=artefacts())
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    arguments = parser.parse_args()
    trained = train(Recipe(seed=arguments.seed))
    write(trained, arguments.out)
    print(json.dumps(trained.report, indent=2))


if __name__ == "__main__":
    main()
