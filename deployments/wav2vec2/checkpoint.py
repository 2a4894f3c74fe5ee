"""A Hugging Face directory or hub id in, an opened `Wav2Vec2ForSequenceClassification` checkpoint out.

Opening reads config, preprocessor, labels, and the names and shapes of all tensors, each of which must be exactly what
the config says. Then it takes digests: of the files, for the card, and of the trunk's tensors, so that checkpoints that
share a trunk are found out. Tensors themselves are read when a model is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from deployments.runtime.device import resolve_precision
from deployments.runtime.errors import MissingWeights, WrongWeights
from deployments.runtime.values import SAMPLE_RATE_HZ, ModelCard, Weights
from deployments.runtime.weights import file_sha256, load_strictly, report_mismatch
from deployments.wav2vec2.artefact import small_directory
from deployments.wav2vec2.labels import LabelMap, map_labels
from deployments.wav2vec2.settings import SMALL, Wav2Vec2Settings

if TYPE_CHECKING:
    import torch

WEIGHTS_NAME = "model.safetensors"
_INDEX_NAME = "model.safetensors.index.json"
_CONFIG_NAME, _PREPROCESSOR_NAME, _CARD_NAME = "config.json", "preprocessor_config.json", "card.json"
_FETCHED = (_CONFIG_NAME, _PREPROCESSOR_NAME, _CARD_NAME, "model*.safetensors", _INDEX_NAME)
TRUNK_PREFIX = "wav2vec2."
_OLD_NAMES = {  # of weight norm in checkpoints saved before torch 2.1
    "pos_conv_embed.conv.weight_g": "pos_conv_embed.conv.parametrizations.weight.original0",
    "pos_conv_embed.conv.weight_v": "pos_conv_embed.conv.parametrizations.weight.original1",
}
_LEAST_FRAMES = 2
_TRAINING_ONLY = "wav2vec2.masked_spec_embed"  # SpecAugment's filler
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


@dataclass(frozen=True)
class Checkpoint:
    """One opened checkpoint."""

    source: str  # the weight file, named in errors
    config: Any  # transformers' Wav2Vec2Config
    do_normalize: bool
    label_map: LabelMap
    card: ModelCard
    trunk: str  # digest: equal for checkpoints whose trunks are the same tensors under the same config
    directory: Path | None  # None: random weights

    @property
    def weighted_layers(self) -> bool:
        """Its head looks at every layer, not at the last alone."""
        return bool(self.config.use_weighted_layer_sum)

    @property
    def min_samples(self) -> int:
        """Samples that give two frames: 720 in wav2vec2-base, 45 ms.

        One frame says nothing of a sound, and OpenVINO 2026.4 gets it wrong: by 0.3 in the cosine at that length, and,
        where it is the first length a compiled model sees, at every length from 16 frames on.
        """
        samples = _LEAST_FRAMES
        for kernel, stride in reversed(list(zip(self.config.conv_kernel, self.config.conv_stride, strict=True))):
            samples = (samples - 1) * stride + kernel
        return samples

    def trunk_state(self) -> dict[str, torch.Tensor]:
        """The trunk's tensors by transformers' present names without prefix. Raises WrongWeights."""
        state = self._state(lambda name: name.startswith(TRUNK_PREFIX) and name != _TRAINING_ONLY)
        return {name.removeprefix(TRUNK_PREFIX): tensor for name, tensor in state.items()}

    def head_state(self) -> dict[str, torch.Tensor]:
        """The tensors beside the trunk. Raises WrongWeights where one holds NaN or infinity."""
        state = self._state(lambda name: not name.startswith(TRUNK_PREFIX))
        report_mismatch(Path(self.source), not_finite=[n for n, tensor in state.items() if not tensor.isfinite().all()])
        return state

    def _state(self, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
        if self.directory is None:
            from deployments.wav2vec2.random_weights import random_state

            return {name: tensor for name, tensor in random_state(self.config).items() if wanted(name)}
        state: dict[str, torch.Tensor] = {}
        for path in weight_files(self.directory):
            names = {_present(name): name for name in _names(path)}
            with _opened(path) as file:
                state |= {name: file.get_tensor(own) for name, own in names.items() if wanted(name)}
        return state


def open_checkpoint(model: str, settings: Wav2Vec2Settings) -> Checkpoint:
    """Raises MissingWeights or WrongWeights, naming the file and what is wrong with it."""
    if settings.weights == "random":
        from deployments.wav2vec2.random_weights import open_random

        return open_random(settings)
    directory = find_directory(model, settings.allow_hub)
    config = read_config(directory)
    source = weight_files(directory)[0]
    _check_shapes(directory, config, source)
    return Checkpoint(
        source=str(source),
        config=config,
        do_normalize=read_do_normalize(directory),
        label_map=map_labels(config.id2label, settings.label_map, directory / _CONFIG_NAME),
        card=_make_card(model, directory, settings),
        trunk=_trunk_digest(directory, config),
        directory=directory,
    )


def find_directory(model: str, allow_hub: bool) -> Path:
    """Local directory of a path, of a hub id, or of the small model that ships with the code. Raises MissingWeights."""
    if model == SMALL:
        return small_directory()
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise MissingWeights(f"{model}: no such model directory; correct the path in wav2vec2's `models`")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, allow_patterns=list(_FETCHED), local_files_only=not allow_hub))
    except Exception as error:  # the hub client raises errors of several libraries
        hint = "" if allow_hub else "; it is not in the local cache, and the setting allow_hub is false"
        raise MissingWeights(f"{model}: neither a directory nor a hub id that can be had{hint}") from error


def read_config(directory: Path) -> Any:
    """transformers' Wav2Vec2Config. Raises MissingWeights without one, WrongWeights for another model's."""
    from transformers import Wav2Vec2Config

    path = directory / _CONFIG_NAME
    given = _read_json(path)
    if given.get("model_type") != "wav2vec2":
        raise WrongWeights(f"{path}: model type {given.get('model_type')!r}, expected 'wav2vec2'")
    if given.get("problem_type") not in (None, "single_label_classification"):
        raise WrongWeights(f"{path}: problem type {given['problem_type']!r}; only one label at a time is supported")
    if given.get("add_adapter"):
        raise WrongWeights(f"{path}: add_adapter is set, which sequence classification does not know")
    try:
        config = Wav2Vec2Config.from_dict(given | {"mask_time_prob": 0.0, "mask_feature_prob": 0.0})
        if config.feat_extract_norm not in ("group", "layer"):
            raise ValueError(f"feat_extract_norm is {config.feat_extract_norm!r}")
    except Exception as error:  # whatever the JSON leads the config class to
        raise WrongWeights(f"{path}: not a config of wav2vec2 ({str(error)[:200]})") from error
    return config


def read_do_normalize(directory: Path) -> bool:
    """Whether each clip is brought to mean 0 and variance 1. Raises WrongWeights for another sample rate."""
    path = directory / _PREPROCESSOR_NAME
    given = _read_json(path)
    rate, features, normalise = (
        given.get("sampling_rate", SAMPLE_RATE_HZ),
        given.get("feature_size", 1),
        given.get("do_normalize", True),  # transformers' own default
    )
    if rate != SAMPLE_RATE_HZ:
        raise WrongWeights(f"{path}: sampling_rate is {rate}, expected {SAMPLE_RATE_HZ}")
    if features != 1 or not isinstance(normalise, bool):
        raise WrongWeights(f"{path}: feature_size {features!r} and do_normalize {normalise!r} are not wav2vec2's")
    return normalise


def weight_files(directory: Path) -> list[Path]:
    """The safetensors file, or all its shards. Raises MissingWeights; pickled weights are not read."""
    if (directory / WEIGHTS_NAME).is_file():
        return [directory / WEIGHTS_NAME]
    index = directory / _INDEX_NAME
    if not index.is_file():
        raise MissingWeights(f"{directory}: no {WEIGHTS_NAME}; pickled weights are refused, convert them first")
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise WrongWeights(f"{index}: no weight_map")
    paths = [directory / Path(str(name)).name for name in sorted(set(shards.values()))]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MissingWeights(f"{missing[0]}: no such file, though {index.name} names it")
    return paths


def build_empty(config: Any) -> Any:
    """A Wav2Vec2ForSequenceClassification on the meta device: names and shapes without memory."""
    import torch
    from transformers import Wav2Vec2ForSequenceClassification

    with torch.device("meta"):
        return Wav2Vec2ForSequenceClassification(config)


def build_trunk(checkpoint: Checkpoint) -> Any:
    """The checkpoint's Wav2Vec2Model in fp32 on the CPU, in eval mode. Raises WrongWeights for values not finite."""
    model = build_empty(checkpoint.config).wav2vec2.to_empty(device="cpu")
    load_strictly(model, checkpoint.trunk_state(), Path(checkpoint.source))
    return model.eval().requires_grad_(False)


def _check_shapes(directory: Path, config: Any, source: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in build_empty(config).state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(directory):
        with _opened(path) as file:
            found |= {_present(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    found.pop(_TRAINING_ONLY, None)
    report_mismatch(
        source,
        missing=[name for name in wanted if name not in found],
        unexpected=[name for name in found if name not in wanted],
        wrong_shape=[
            f"{name} {shape}, expected {wanted[name]}"
            for name, shape in found.items()
            if name in wanted and shape != wanted[name]
        ],
    )


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise WrongWeights(f"{path}: not a whole safetensors file ({error})") from error


def _present(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _trunk_digest(directory: Path, config: Any) -> str:
    """sha256 over the trunk's config and, by name, the dtype, shape and bytes of each of its tensors."""
    digest = hashlib.sha256(json.dumps({field: getattr(config, field) for field in _TRUNK_FIELDS}).encode())
    tensors = sorted((_present(name), path, name) for path in weight_files(directory) for name in _names(path))
    for present, path, name in tensors:
        if present.startswith(TRUNK_PREFIX) and present != _TRAINING_ONLY:
            with _opened(path) as file:
                digest.update(f"\n{present} ".encode())
                for part in _bytes_of(file.get_tensor(name)):
                    digest.update(part)
    return digest.hexdigest()


def _names(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def _bytes_of(tensor: torch.Tensor) -> Iterator[bytes]:
    import torch

    yield f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _make_card(model: str, directory: Path, settings: Wav2Vec2Settings) -> ModelCard:
    """From the directory's card.json where it has one; a checkpoint without one counts as pretrained.

    `version` is a digest of the weights, the config, the preprocessor and the label map: what decides the
    probabilities up to rounding.
    """
    sha256 = _weights_sha256(directory)
    files = (file_sha256(directory / name) for name in (_CONFIG_NAME, _PREPROCESSOR_NAME))
    decided_by = (sha256, *files, json.dumps(settings.label_map, sort_keys=True))
    own = _read_json(directory / _CARD_NAME) if (directory / _CARD_NAME).exists() else {}
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
            f"{directory / _CARD_NAME}: weights {value!r}, expected one of {', '.join(get_args(Weights))}"
        )
    return cast(Weights, value)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingWeights(f"{path}: no such file")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WrongWeights(f"{path}: not a JSON object ({error})") from error
