"""The files of a Hugging Face directory: where they are, and what can be told of them without reading weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deployments.runtime.errors import MissingWeights, WrongWeights
from deployments.wav2vec2.artefact import small_directory
from deployments.wav2vec2.settings import SMALL

CONFIG_NAME, PREPROCESSOR_NAME, CARD_NAME = "config.json", "preprocessor_config.json", "card.json"
WEIGHTS_NAME = "model.safetensors"
TRUNK_PREFIX = "wav2vec2."
TRAINING_ONLY = "wav2vec2.masked_spec_embed"  # SpecAugment's filler

_INDEX_NAME = "model.safetensors.index.json"
_FETCHED = (CONFIG_NAME, PREPROCESSOR_NAME, CARD_NAME, "model*.safetensors", _INDEX_NAME)
_OLD_NAMES = {  # of weight norm in checkpoints saved before torch 2.1
    "pos_conv_embed.conv.weight_g": "pos_conv_embed.conv.parametrizations.weight.original0",
    "pos_conv_embed.conv.weight_v": "pos_conv_embed.conv.parametrizations.weight.original1",
}


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


def weight_files(directory: Path) -> list[Path]:
    """The safetensors file, or all its shards. Raises MissingWeights; pickled weights are not read."""
    if (directory / WEIGHTS_NAME).is_file():
        return [directory / WEIGHTS_NAME]
    index = directory / _INDEX_NAME
    if not index.is_file():
        raise MissingWeights(f"{directory}: no {WEIGHTS_NAME}; pickled weights are refused, convert them first")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise WrongWeights(f"{index}: no weight_map")
    paths = [directory / Path(str(name)).name for name in sorted(set(shards.values()))]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MissingWeights(f"{missing[0]}: no such file, though {index.name} names it")
    return paths


def tensor_names(path: Path) -> dict[str, str]:
    """Names of a file's tensors: transformers' present one -> the file's own. Raises WrongWeights."""
    with open_safetensors(path) as file:
        return {_present(name): name for name in file.keys()}  # noqa: SIM118


def open_safetensors(path: Path) -> Any:
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


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingWeights(f"{path}: no such file")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WrongWeights(f"{path}: not a JSON object ({error})") from error
