"""A tiny checkpoint for every kind of damage, and the real local model where its packages are installed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from deployments.runtime.errors import MissingWeights
from deployments.xlmr.encoder import TextEncoder
from deployments.xlmr.prepare import prepare_local
from deployments.xlmr.settings import XlmrSettings
from tests.conftest import skip_or_fail

WORDS = [
    "a",
    "big",
    "cat",
    "dog",
    "ate",
    "the",
    "red",
    "fish",
    "and",
    "ran",
    "far",
    "from",
    "its",
    "old",
    "home",
    "by",
    "sea",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
TINY: dict[str, int] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 34,
}


def tiny_tokenizer() -> Tokenizer:
    vocabulary = {piece: index for index, piece in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in SPECIAL])
    return tokenizer


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Directory of a two-layer XLM-R saved by `save_pretrained`."""
    import torch

    from deployments.xlmr.random_weights import build_random

    directory = tmp_path / "tiny"
    build_random(torch.float32, **TINY).save_pretrained(directory)
    tiny_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


MakeEncoder = Callable[..., TextEncoder]


@pytest.fixture
def loaded() -> MakeEncoder:
    """fp32 on one thread unless told otherwise."""

    def load(directory: Path | str, **changes: Any) -> TextEncoder:
        encoder = TextEncoder(XlmrSettings(**{"model": str(directory), "precision": "fp32"} | changes))
        encoder.load()
        return encoder

    return load


@pytest.fixture(scope="session")
def e5_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    models_dir = tmp_path_factory.mktemp("models")
    try:
        yield prepare_local(models_dir)
    except MissingWeights as error:
        skip_or_fail(str(error))
    finally:
        shutil.rmtree(models_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def e5(e5_directory: Path) -> TextEncoder:
    settings = XlmrSettings(model=str(e5_directory), prefix="query: ", precision="fp32")
    encoder = TextEncoder(settings)
    encoder.load()
    return encoder
