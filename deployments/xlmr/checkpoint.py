"""A Hugging Face directory or hub id in, a strictly loaded encoder without its heads out, with its model card.

Order: find the directory (the hub only where allowed), read config.json and refuse what is no bidirectional text
encoder, pick the weight file (safetensors first), load it, and refuse any key that is missing, unexpected or of
another shape, except heads that the masked mean does not use. No code of a checkpoint is ever run.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from deployments.runtime.device import resolve_precision
from deployments.runtime.errors import MissingWeights, WrongWeights
from deployments.runtime.values import ModelCard, Weights
from deployments.runtime.weights import file_sha256, report_mismatch
from deployments.xlmr.settings import XlmrSettings
from deployments.xlmr.tokenisation import TextTokenizer, read_backend

_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_TORCH = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_SMALL_FILES = ("config.json", "card.json", "tokenizer*.json", "special_tokens_map.json", "vocab.*", "*.model")
_ROWS = 512  # of position embeddings, where a config does not say
_UNUSED = ("pooler.", "lm_head.", "cls.", "embeddings.position_ids")
"""Key prefixes that may be missing or left over: heads above the last hidden state, and a buffer of old releases."""


@dataclass(frozen=True)
class OpenedModel:
    """What the encoder needs of a model, wherever it came from."""

    model: Any  # torch module on the CPU; returns `last_hidden_state`
    tokenizer: TextTokenizer
    first_position: int
    pad_id: int
    card: ModelCard
    source: str  # named in errors


def open_checkpoint(settings: XlmrSettings, dtype: Any) -> OpenedModel:
    """Raises MissingWeights or WrongWeights, naming the file."""
    directory = find_directory(settings.model, settings.allow_hub)
    config = read_config(directory)
    model = load_model(directory, config, dtype)
    first = first_position(model)
    rows = int(getattr(config, "max_position_embeddings", _ROWS))  # 514 in XLM-R: 512 tokens
    limit = min(rows - first, settings.max_tokens or sys.maxsize)
    tokenizer = TextTokenizer(read_backend(directory), settings.prefix, limit)
    if tokenizer.vocabulary > config.vocab_size:
        sizes = f"{tokenizer.vocabulary} pieces, the model {config.vocab_size}"
        raise WrongWeights(f"{directory}: its tokenizer has {sizes}")
    card = make_card(settings, directory, config.hidden_size, limit)
    pad_id = int(config.pad_token_id or 0)
    return OpenedModel(model, tokenizer, first, pad_id, card, str(weight_file(directory)))


def locate(settings: XlmrSettings) -> Path:
    """The weight file, without loading it and without the network. Raises MissingWeights saying what to change."""
    return weight_file(find_directory(settings.model, allow_hub=False))


def find_directory(model: str, allow_hub: bool) -> Path:
    """Local directory of a path or hub id. Raises MissingWeights saying what to change."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise MissingWeights(f"{model}: no such model directory; run `parakh models prepare`, or correct the path")
    try:
        return _from_hub(model, allow_hub)
    except Exception as error:  # the hub client raises errors of several libraries
        hint = "" if allow_hub else "; it is not in the local cache, and the setting allow_hub is false"
        raise MissingWeights(f"{model}: neither a directory nor a hub id that can be had{hint}") from error


def _from_hub(model: str, allow_hub: bool) -> Path:
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(model, allow_patterns=list(patterns), local_files_only=not allow_hub))

    directory = fetch(*_SMALL_FILES, "model*.safetensors", _SAFETENSORS[1])
    if not any((directory / name).exists() for name in _SAFETENSORS):
        directory = fetch("pytorch_model*.bin", _TORCH[1])
    return directory


def weight_file(directory: Path) -> Path:
    """The file (or index of shards) to load. Raises MissingWeights."""
    for name in (*_SAFETENSORS, *_TORCH):
        if (directory / name).is_file():
            return directory / name
    raise MissingWeights(f"{directory}: no {_SAFETENSORS[0]} and no {_TORCH[0]}")


def read_config(directory: Path) -> Any:
    """The transformers config. Raises MissingWeights without one, WrongWeights for anything but a text encoder."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    path = directory / "config.json"
    if not path.is_file():
        raise MissingWeights(f"{path}: no such file")
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the JSON leads the config class to
        raise WrongWeights(f"{path}: not a model that transformers knows ({str(error)[:200]})") from error
    decodes = getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False)
    if decodes or config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise WrongWeights(f"{path}: model type {config.model_type} is not a text encoder")
    return config


def load_model(directory: Path, config: Any, dtype: Any) -> Any:
    """The encoder in eval mode on the CPU, without pooler. Raises WrongWeights naming the file and its mismatches."""
    import torch

    file = weight_file(directory)
    try:
        model, info = _from_pretrained(directory, config, dtype, file.name in _SAFETENSORS)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # safetensors, pickle, zip and OS errors, by kind of damage
        raise WrongWeights(f"{file}: could not be read as weights ({str(error)[:200]})") from error
    report_mismatch(
        file,
        missing=_used(info["missing_keys"]),
        unexpected=_used(info["unexpected_keys"]),
        wrong_shape=[f"{key} {tuple(has)}, expected {tuple(wants)}" for key, has, wants in info["mismatched_keys"]],
    )
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    for key, tensor in model.named_parameters():
        if not torch.isfinite(tensor.sum()):  # attention can hide a NaN: the output would be wrong and finite
            raise WrongWeights(f"{file}: {key} holds values that are not finite")
    return model.eval().requires_grad_(False)


def _from_pretrained(directory: Path, config: Any, dtype: Any, safetensors: bool) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModel

    with quiet():
        model, info = AutoModel.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=safetensors,
            weights_only=True,
            ignore_mismatched_sizes=True,  # so that they come back as a list and not as one exception
            output_loading_info=True,
        )
    return model, info


def _used(keys: set[str]) -> list[str]:
    return sorted(key for key in keys if not key.startswith(_UNUSED))


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bar and load report: what matters of the report becomes an error here."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def first_position(model: Any) -> int:
    """Row of the position embeddings that a text's first token takes: 0 in BERT, padding id + 1 in RoBERTa."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


def make_card(settings: XlmrSettings, directory: Path, dimension: int, limit: int) -> ModelCard:
    """From the directory's card.json where it has one; a checkpoint without one counts as pretrained.

    `version` is a digest of the weight file, the tokenizer, the prefix and the token limit: what decides the vector
    up to rounding. Precision has its own field.
    """
    sha256 = _digest(weight_file(directory))
    tokenizer = directory / "tokenizer.json"
    parts = (sha256, file_sha256(tokenizer) if tokenizer.is_file() else "", settings.prefix, str(limit))
    own = _own_card(directory)
    return ModelCard(
        name=own.get("name", directory.name if Path(settings.model).is_dir() else settings.model),
        version=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12],
        weights=_known_weights(own.get("weights", "pretrained"), directory),
        dimension=dimension,
        device=settings.device,
        precision=resolve_precision(settings),
        sha256=sha256,
        note=own.get("note", ""),
    )


def _digest(file: Path) -> str:
    """sha256 of one file, or of all shards' digests in order."""
    if file.suffix != ".json":
        return file_sha256(file)
    shards = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
    return hashlib.sha256("".join(file_sha256(file.parent / shard) for shard in shards).encode()).hexdigest()


def _own_card(directory: Path) -> dict[str, Any]:
    path = directory / "card.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WrongWeights(f"{path}: not a model card ({error})") from error


def _known_weights(value: object, directory: Path) -> Weights:
    for known in get_args(Weights):
        if value == known:
            return cast(Weights, known)
    raise WrongWeights(f"{directory / 'card.json'}: weights {value!r}, expected one of {', '.join(get_args(Weights))}")
