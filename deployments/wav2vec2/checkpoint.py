"""A Hugging Face directory or hub id in, an opened `Wav2Vec2ForSequenceClassification` checkpoint out.

Opening reads config, preprocessor, labels, and the names and shapes of all tensors, each of which must be exactly what
the config says. Then it takes digests: of the files, for the card, and of the trunk's tensors, so that checkpoints that
share a trunk are found out. Tensors themselves are read when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.runtime.errors import WrongWeights
from deployments.runtime.values import SAMPLE_RATE_HZ, ModelCard
from deployments.runtime.weights import load_strictly, report_mismatch
from deployments.wav2vec2.files import (
    CONFIG_NAME,
    PREPROCESSOR_NAME,
    TRAINING_ONLY,
    TRUNK_PREFIX,
    find_directory,
    open_safetensors,
    read_json,
    tensor_names,
    weight_files,
)
from deployments.wav2vec2.identity import make_card, trunk_digest
from deployments.wav2vec2.labels import LabelMap, map_labels
from deployments.wav2vec2.settings import Wav2Vec2Settings

if TYPE_CHECKING:
    import torch

_LEAST_FRAMES = 2


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
        state = self._state(lambda name: name.startswith(TRUNK_PREFIX) and name != TRAINING_ONLY)
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
            names = tensor_names(path)
            with open_safetensors(path) as file:
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
        label_map=map_labels(config.id2label, settings.label_map, directory / CONFIG_NAME),
        card=make_card(model, directory, settings),
        trunk=trunk_digest(directory, config),
        directory=directory,
    )


def read_config(directory: Path) -> Any:
    """transformers' Wav2Vec2Config. Raises MissingWeights without one, WrongWeights for another model's."""
    from transformers import Wav2Vec2Config

    path = directory / CONFIG_NAME
    given = read_json(path)
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
    path = directory / PREPROCESSOR_NAME
    given = read_json(path)
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
        names = tensor_names(path)
        with open_safetensors(path) as file:
            found |= {name: tuple(file.get_slice(own).get_shape()) for name, own in names.items()}
    found.pop(TRAINING_ONLY, None)
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
