"""VGGish as an Encoder: sound of several posts in, one 128-d vector for each 0.96 s of each post out.

Per post: check -> log-mel examples (torch, fp32) -> all posts' examples laid end to end -> forward passes of at most
`max_batch_examples` -> given back post by post. A post that cannot be judged becomes an error at its own place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.runtime.device import prepare_torch, resolve_precision
from deployments.runtime.errors import InvalidInput, NodeUnavailable
from deployments.runtime.values import Embeddings, ModelCard, Weights
from deployments.runtime.weights import file_sha256, load_strictly, read_state_dict, require_file, verify_sha256
from deployments.vggish.artefact import WEIGHTS_NAME, artefacts, read_card
from deployments.vggish.examples import SoundItem, count_examples, invalid_reason, log_mel_of
from deployments.vggish.log_mel import EXAMPLE_SAMPLES
from deployments.vggish.network import EMBEDDING, VggishNetwork, for_inference
from deployments.vggish.postprocess import Postprocessor, load_postprocessor, split_state
from deployments.vggish.settings import VggishSettings

__all__ = ["SoundItem", "VggishEncoder"]

_RANDOM_SEED = 0
_LOUDEST = 2.0  # decoded sound lies within -1..1; resampling may overshoot a little


class _Identity(NamedTuple):
    name: str
    version: str
    weights: Weights
    sha256: str | None
    note: str


class VggishEncoder:
    """The published network, or the small one, by settings."""

    def __init__(self, settings: VggishSettings) -> None:
        self._settings = settings
        self._device, self._dtype = torch.device(settings.device), torch.float32
        self._identity = _Identity(settings.variant, "unloaded", "random", None, "")
        self._network: VggishNetwork | None = None
        self._postprocessor: Postprocessor | None = None

    @property
    def card(self) -> ModelCard:
        return ModelCard(
            **self._identity._asdict(),
            dimension=EMBEDDING,
            device=self._settings.device,
            precision=resolve_precision(self._settings),
        )

    def load(self) -> None:
        self._device, self._dtype = prepare_torch(self._settings)
        network = VggishNetwork(self._settings.resolved_width)
        if self._settings.weights == "random":
            identity = _random_identity(network, self._settings)
        else:
            identity = self._load_checkpoint(network)
        self._identity = identity._replace(version=version_with(identity.version, self._settings))
        self._network = for_inference(network, self._device, self._dtype)

    def _load_checkpoint(self, network: VggishNetwork) -> _Identity:
        path, identity = locate(self._settings)
        own, postprocess = split_state(read_state_dict(path))
        load_strictly(network, own, path)
        if self._settings.postprocess != "off":
            quantise = self._settings.postprocess == "pca-quantised"
            loaded = load_postprocessor(quantise, postprocess, path, self._settings.pca_checkpoint)
            self._postprocessor = loaded.to(self._device)
        return identity

    def example(self) -> SoundItem:
        return SoundItem(np.zeros(EXAMPLE_SAMPLES, np.float32))

    def weight(self, item: SoundItem) -> int:
        return count_examples(item, self._settings.tail)

    def bucket(self, item: SoundItem) -> None:
        return None

    def encode(self, items: Sequence[SoundItem]) -> Sequence[Embeddings | Exception]:
        errors = [invalid_reason(item) for item in items]
        good = [item for item, error in zip(items, errors, strict=True) if error is None]
        if not good:
            return [error for error in errors if error is not None]
        heard = [log_mel_of(item, self._settings.tail) for item in good]
        vectors = self._forward(np.concatenate([log_mel for log_mel, _ in heard]))
        ends = np.cumsum([len(times) for _, times in heard])
        results = iter(
            _embeddings(item, vectors[end - len(times) : end], times)
            for item, end, (_, times) in zip(good, ends, heard, strict=True)
        )
        return [next(results) if error is None else error for error in errors]

    @torch.inference_mode()
    def _forward(self, log_mel: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 96, 64) -> (n, 128)."""
        if self._network is None:
            raise RuntimeError("load() must be called before encode()")
        parts = []
        for batch in torch.from_numpy(log_mel).split(self._settings.max_batch_examples):  # type: ignore[no-untyped-call]
            embedding = self._network(batch.to(self._device, self._dtype)).float()
            parts.append(self._postprocessor(embedding) if self._postprocessor else embedding)
        vectors: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return vectors


def _embeddings(
    item: SoundItem, vectors: NDArray[np.float32], times_s: NDArray[np.float32]
) -> Embeddings | InvalidInput | NodeUnavailable:
    """Sound that overflows the network is its sender's fault; whatever else gives no finite vector is the network's."""
    if np.isfinite(vectors).all():
        return Embeddings(vectors=vectors.copy(), times_s=times_s)
    if np.abs(item.samples).max() > _LOUDEST:
        return InvalidInput("Sound is far outside -1..1.")
    return NodeUnavailable("The sound encoder gave a number that is not finite.")


def locate(settings: VggishSettings) -> tuple[Path, _Identity]:
    """The weight file and what it is. The shipped artefact is verified against its card's sha256."""
    if settings.checkpoint is not None:
        path = require_file(settings.checkpoint)
        sha256 = file_sha256(path)
        weights: Weights = "trained-here" if settings.variant == "vggish-small" else "pretrained"
        return path, _Identity(settings.variant, sha256[:12], weights, sha256, f"Weights of {path.name}.")
    card, path = read_card(artefacts()), artefacts() / WEIGHTS_NAME
    verify_sha256(path, card.sha256)
    return path, _Identity(card.name, card.version, card.weights, card.sha256, card.note)


def version_with(weights_version: str, settings: VggishSettings) -> str:
    """The weights' own version, with a digest of every setting that changes the vectors and is not the default."""
    changes: dict[str, str | int] = {}
    if settings.resolved_width != settings.own_width:
        changes["width"] = settings.resolved_width
    if settings.tail != VggishSettings.model_fields["tail"].default:
        changes["tail"] = settings.tail
    if settings.postprocess != "off":
        changes["postprocess"] = settings.postprocess
        if settings.pca_checkpoint is not None:  # else the PCA parameters are part of the weights' own file
            changes["pca_sha256"] = file_sha256(require_file(settings.pca_checkpoint))
    if not changes:
        return weights_version
    return f"{weights_version}-{hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()[:8]}"


def _random_identity(network: VggishNetwork, settings: VggishSettings) -> _Identity:
    generator = torch.Generator().manual_seed(_RANDOM_SEED)
    for parameter in network.parameters():
        bound = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.01
        torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return _Identity(settings.variant, f"random-{_RANDOM_SEED}", "random", None, "Untrained: for benchmarks only.")
