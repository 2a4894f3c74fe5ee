"""Training a fusion head from a table of cached embeddings (torch; the result needs none).

dataset -> standardised inputs -> MLP with modality dropout -> best epoch by the calibration part's log-loss
        -> standardisation folded into the first layer -> temperature and window offsets -> held-out report -> artefact.
All of it is checked and computed before the first byte is written.

Folding: (x - m)/s times a presence bit p equals x/s - p m/s where x is zero without p, so the first layer's weights
are divided by s and its presence columns take up -W m/s: the artefact stays a plain MLP on the contract's input.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from deployments.fusion import artefact
from deployments.fusion.artefact import CARD_FILE, FusionCard, Pooling, TrainedOn
from deployments.fusion.calibration import fit_temperature, negative_log_likelihood
from deployments.fusion.chance import fit_offsets
from deployments.fusion.dataset import CALIBRATE, TRAIN, Bools, Dataset, DatasetError, read_dataset
from deployments.fusion.features import MODALITIES, Floats
from deployments.fusion.head import FusionHead
from deployments.fusion.mlp import Mlp
from deployments.fusion.report import as_text, held_out_report, logits_under
from deployments.policy.policy import CATEGORIES
from deployments.runtime.artefact_files import write_whole
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import Modality


class TrainSettings(BaseModel):
    """How a head is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Path = Field(description="Directory of the artefact: head, card, report.")
    replace: bool = Field(False, description="Overwrite an artefact that is there already.")
    encoders: Mapping[Modality, TrainedOn] = Field(
        default_factory=dict, description="The encoders that made the table; the head then refuses all others."
    )
    dimensions: Mapping[Modality, int] = Field(
        default_factory=dict, description="Of the encoders the head is for, where nobody knows which made the table."
    )
    hidden: tuple[int, int] = Field((256, 128), description="Widths of the two hidden layers.")
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    dropout: float = Field(0.2, ge=0, lt=1, description="Of hidden units.")
    noise: float = Field(0.3, ge=0, description="Deviation of the noise on inputs, in deviations of each input.")
    modality_dropout: float = Field(0.3, ge=0, lt=1, description="Chance that a post loses a modality in a batch.")
    class_weights: Literal["none", "balanced"] = Field("none", description="balanced: rare categories weigh more.")
    heldout_fraction: float = Field(0.2, gt=0, lt=1, description="Where the table has no split column.")
    calibrate_fraction: float = Field(0.15, gt=0, lt=1, description="Where the table has no split column.")
    seed: int = 0
    threads: int = Field(1, ge=1)
    note: str = Field("", description="One sentence for the card: what this head's numbers are worth.")


@dataclass(frozen=True)
class TrainProgress:
    epoch: int  # from 1
    epochs: int
    train_loss: float
    calibrate_loss: float


@dataclass(frozen=True)
class TrainResult:
    directory: Path
    card: FusionCard
    report: dict[str, Any]
    table: str  # the report as text


def train_fusion(
    dataset: Path, settings: TrainSettings, progress: Callable[[TrainProgress], None] | None = None
) -> TrainResult:
    """Raises DatasetError for a bad table and InvalidInput for an output that is taken; then nothing is written."""
    if (settings.output / CARD_FILE).exists() and not settings.replace:
        raise InvalidInput(f"{settings.output} holds an artefact already; choose another directory or replace it.")
    wanted = {m: e.dimension for m, e in settings.encoders.items()} or dict(settings.dimensions)
    if wanted and set(wanted) != set(MODALITIES):
        raise InvalidInput("Name the encoders (or dimensions) of all three modalities, or none.")
    data = read_dataset(dataset, wanted or None, settings.heldout_fraction, settings.calibrate_fraction)
    if len(set(data.labels[data.splits == TRAIN])) < 2:
        raise DatasetError(f"{dataset}: the training part holds a single category.")
    tensors = _fit(data, settings, progress)
    mlp = Mlp(tensors, data.dimensions)
    rows = data.splits == CALIBRATE
    labels = data.labels_under(data.present)[rows]
    temperature = fit_temperature(logits_under(mlp, data, rows, data.present), labels)
    sharpness = Pooling().sharpness
    pooling = Pooling(sharpness=sharpness, offsets=fit_offsets(mlp, temperature, sharpness, data, settings.seed))
    return _write(data, settings, tensors, temperature, pooling)


def _write(
    data: Dataset,
    settings: TrainSettings,
    tensors: dict[str, Floats],
    temperature: float,
    pooling: Pooling,
) -> TrainResult:
    weights, sha256 = artefact.dump(tensors)
    card = FusionCard(
        version=f"1-{sha256[:12]}",
        weights="trained-here",
        dimensions=data.dimensions,
        hidden=settings.hidden,
        temperature=temperature,
        pooling=pooling,
        encoders=settings.encoders,
        data_sha256=data.sha256,
        seed=settings.seed,
        note=settings.note,
        weights_sha256=sha256,
    )
    report = held_out_report(FusionHead(card, tensors), data)
    metrics = {"heldout_accuracy": report["accuracy"], "heldout_ece": report["ece"]["after"]}
    card, table = card.model_copy(update={"metrics": metrics}), as_text(report)
    artefact.write(settings.output, card, weights)
    write_whole(settings.output / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    write_whole(settings.output / "report.txt", table.encode())
    return TrainResult(settings.output, card, report, table)


class TorchHead(nn.Module):
    """The same MLP as mlp.Mlp, with the same tensor names, on the whole concatenation."""

    def __init__(self, width: int, hidden: tuple[int, int], dropout: float) -> None:
        super().__init__()
        sizes = [width, *hidden, len(CATEGORIES)]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, width) -> (n, 7) logits"""
        for layer in self.layers[:-1]:
            x = self.dropout(nn.functional.gelu(layer(x), approximate="tanh"))
        result: torch.Tensor = self.layers[-1](x)
        return result


@dataclass(frozen=True)
class _Scaler:
    """Mean and deviation of each input over the training posts that have the modality."""

    mean: Mapping[Modality, Floats]
    scale: Mapping[Modality, Floats]

    @classmethod
    def of(cls, data: Dataset) -> _Scaler:
        mean, scale = {}, {}
        for bit, m in enumerate(MODALITIES):
            seen = data.vectors[m][(data.splits == TRAIN) & data.present[:, bit]]
            empty = len(seen) == 0
            mean[m] = np.zeros(data.dimensions[m], np.float32) if empty else seen.mean(axis=0)
            spread = np.ones(data.dimensions[m], np.float32) if empty else seen.std(axis=0)
            typical = float(np.sqrt(np.mean(spread**2))) or 1.0
            scale[m] = np.maximum(spread, np.float32(0.1 * typical))  # a dead input must not be blown up
        return cls(mean, scale)

    def inputs(self, data: Dataset, rows: Bools) -> Floats:
        """(rows, width): standardised blocks, zeros where missing, then the presence bits."""
        blocks = [
            (data.vectors[m][rows] - self.mean[m]) / self.scale[m] * data.present[rows, bit, None]
            for bit, m in enumerate(MODALITIES)
        ]
        return np.concatenate([*blocks, data.present[rows]], axis=1).astype(np.float32)

    def fold(self, tensors: dict[str, Floats]) -> dict[str, Floats]:
        """Weights for standardised inputs -> weights for plain unit vectors."""
        weight = tensors["layers.0.weight"].astype(np.float64)
        start, width = 0, weight.shape[1] - len(MODALITIES)
        for bit, m in enumerate(MODALITIES):
            block = slice(start, start + len(self.mean[m]))
            weight[:, block] /= self.scale[m]
            weight[:, width + bit] -= weight[:, block] @ self.mean[m]
            start = block.stop
        return tensors | {"layers.0.weight": weight.astype(np.float32)}


def _fit(data: Dataset, settings: TrainSettings, progress: Callable[[TrainProgress], None] | None) -> dict[str, Floats]:
    """The weights of the best epoch, for plain unit vectors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            return _Run(data, settings).best(progress)
    finally:
        torch.set_num_threads(threads)


class _Run:
    """One training run: batches, modality dropout, and the best weights so far."""

    def __init__(self, data: Dataset, settings: TrainSettings) -> None:
        self.data, self.settings = data, settings
        self.scaler = _Scaler.of(data)
        self.rows = np.flatnonzero(data.splits == TRAIN)
        self.inputs = torch.from_numpy(self.scaler.inputs(data, data.splits == TRAIN))
        self.model = TorchHead(self.inputs.shape[1], settings.hidden, settings.dropout)
        self.random = np.random.default_rng(settings.seed)
        self.loss = nn.CrossEntropyLoss(weight=self._class_weights())
        decay = settings.weight_decay
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings.learning_rate, weight_decay=decay)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, settings.epochs)

    def best(self, progress: Callable[[TrainProgress], None] | None) -> dict[str, Floats]:
        best_loss, best = np.inf, self._weights()
        for epoch in range(1, self.settings.epochs + 1):
            train_loss = self._epoch()
            weights = self._weights()
            loss = self._calibrate_loss(weights)
            if loss < best_loss:
                best_loss, best = loss, weights
            if progress is not None:
                progress(TrainProgress(epoch, self.settings.epochs, train_loss, loss))
        return best

    def _epoch(self) -> float:
        self.model.train()
        losses = []
        for batch in np.array_split(self.random.permutation(len(self.rows)), self._batches()):
            kept = self._modality_dropout(self.data.present[self.rows[batch]])
            labels = self._labels(batch, kept)
            loss = self.loss(self.model(self._masked(batch, kept)), torch.from_numpy(labels))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
        self.schedule.step()
        return float(np.mean(losses))

    def _batches(self) -> int:
        return max(1, len(self.rows) // self.settings.batch_size)

    def _modality_dropout(self, present: Bools) -> Bools:
        """Each modality goes with the set chance; a post that would lose all keeps all."""
        kept = present & (self.random.random(present.shape) >= self.settings.modality_dropout)
        return np.where(kept.any(axis=1, keepdims=True), kept, present)

    def _labels(self, batch: Any, kept: Bools) -> Any:
        rows = self.rows[batch]
        shown = (kept & self.data.carriers[rows]).any(axis=1)
        return np.where(shown, self.data.labels[rows], 0).astype(np.int64)

    def _masked(self, batch: Any, kept: Bools) -> torch.Tensor:
        widths = [self.data.dimensions[m] for m in MODALITIES]
        mask = np.concatenate([np.repeat(kept, widths, axis=1), kept], axis=1)
        inputs = self.inputs[batch]
        noise = self.settings.noise * torch.randn(inputs.shape)
        noise[:, -len(MODALITIES) :] = 0.0  # presence bits are what they are
        return (inputs + noise) * torch.from_numpy(mask)

    def _class_weights(self) -> torch.Tensor | None:
        if self.settings.class_weights == "none":
            return None
        counts = np.bincount(self.data.labels[self.rows], minlength=len(CATEGORIES))
        return torch.from_numpy((len(self.rows) / len(CATEGORIES) / np.maximum(counts, 1)).astype(np.float32))

    def _weights(self) -> dict[str, Floats]:
        return self.scaler.fold({n: t.detach().numpy().copy() for n, t in self.model.state_dict().items()})

    def _calibrate_loss(self, weights: dict[str, Floats]) -> float:
        rows = self.data.splits == CALIBRATE
        logits = logits_under(Mlp(weights, self.data.dimensions), self.data, rows, self.data.present)
        return negative_log_likelihood(logits, self.data.labels_under(self.data.present)[rows])
