"""Who a checkpoint is: its card, and the digest that tells whether two checkpoints share a trunk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from deployments.runtime.device import resolve_precision
from deployments.runtime.errors import WrongWeights
from deployments.runtime.values import ModelCard, Weights
from deployments.runtime.weights import file_sha256
from deployments.wav2vec2.files import (
    CARD_NAME,
    CONFIG_NAME,
    PREPROCESSOR_NAME,
    TRAINING_ONLY,
    TRUNK_PREFIX,
    open_safetensors,
    read_json,
    tensor_names,
    weight_files,
)
from deployments.wav2vec2.settings import Wav2Vec2Settings

if TYPE_CHECKING:
    import torch

_TRUNK_FIELDS = (
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "conv_bias",
    "feat_extract_norm",
    "feat_extract_activation",
    "hidden_size",
    "hidden_act",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "layer_norm_eps",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "do_stable_layer_norm",
    "adapter_attn_dim",
)


def trunk_digest(directory: Path, config: Any) -> str:
    """sha256 over the trunk's config and, by name, the dtype, shape and bytes of each of its tensors."""
    digest = hashlib.sha256(json.dumps({field: getattr(config, field) for field in _TRUNK_FIELDS}).encode())
    tensors = sorted((*names, path) for path in weight_files(directory) for names in tensor_names(path).items())
    for present, name, path in tensors:
        if present.startswith(TRUNK_PREFIX) and present != TRAINING_ONLY:
            with open_safetensors(path) as file:
                digest.update(f"\n{present} ".encode())
                for part in _bytes_of(file.get_tensor(name)):
                    digest.update(part)
    return digest.hexdigest()


def _bytes_of(tensor: torch.Tensor) -> Iterator[bytes]:
    import torch

    yield f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def make_card(model: str, directory: Path, settings: Wav2Vec2Settings) -> ModelCard:
    """From the directory's card.json where it has one; a checkpoint without one counts as pretrained.

    `version` is a digest of the weights, the config, the preprocessor and the label map: what decides the
    probabilities up to rounding.
    """
    sha256 = _weights_sha256(directory)
    files = (file_sha256(directory / name) for name in (CONFIG_NAME, PREPROCESSOR_NAME))
    decided_by = (sha256, *files, json.dumps(settings.label_map, sort_keys=True))
    own = read_json(directory / CARD_NAME) if (directory / CARD_NAME).exists() else {}
    return ModelCard(
        name=str(own.get("name", directory.name if Path(model).expanduser().is_dir() else model)),
        version=hashlib.sha256("\n".join(decided_by).encode()).hexdigest()[:12],
        weights=_known_weights(own.get("weights", "pretrained"), directory),
        dimension=0,
        device=settings.device,
        precision=resolve_precision(settings),
        sha256=sha256,
        note=str(own.get("note", "")),
    )


def _weights_sha256(directory: Path) -> str:
    """Of the one file, or of all shards' digests in order."""
    digests = [file_sha256(path) for path in weight_files(directory)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _known_weights(value: object, directory: Path) -> Weights:
    if value not in get_args(Weights):
        raise WrongWeights(
            f"{directory / CARD_NAME}: weights {value!r}, expected one of {', '.join(get_args(Weights))}"
        )
    return cast(Weights, value)
