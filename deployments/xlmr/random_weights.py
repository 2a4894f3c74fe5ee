"""A model of xlm-roberta-large's true shape with untrained weights: for benchmarks and load tests, never a fallback.

It costs what the real one costs and its vectors mean nothing. Its tokenizer is the real XLM-R one, from the package
that the local profile uses too.
"""

from __future__ import annotations

import sys
from typing import Any

from deployments.runtime.device import resolve_precision
from deployments.runtime.values import ModelCard
from deployments.xlmr.checkpoint import OpenedModel
from deployments.xlmr.e5_conversion import tokenizer_file
from deployments.xlmr.settings import XlmrSettings
from deployments.xlmr.tokenisation import TextTokenizer, read_backend

LARGE: dict[str, int | float] = {
    "vocab_size": 250_002,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
"""config.json of FacebookAI/xlm-roberta-large."""
_SEED = 0
_LIMIT = 512


def open_random(settings: XlmrSettings, dtype: Any) -> OpenedModel:
    """The same weights in every process. Raises MissingWeights where the tokenizer's package is not installed."""
    limit = min(_LIMIT, settings.max_tokens or sys.maxsize)
    tokenizer = TextTokenizer(read_backend(tokenizer_file().parent), settings.prefix, limit)
    card = ModelCard(
        name="xlm-roberta-large",
        version="random-1",
        weights="random",
        dimension=int(LARGE["hidden_size"]),
        device=settings.device,
        precision=resolve_precision(settings),
        note="untrained weights of the true shape: the vectors mean nothing",
    )
    model = build_random(dtype)
    pad_id = int(LARGE["pad_token_id"])
    return OpenedModel(model, tokenizer, pad_id + 1, pad_id, card, "random weights")


def build_random(dtype: Any, **changes: int) -> Any:
    """An XLMRobertaModel without pooler, in eval mode; `changes` override LARGE (a tiny one for tests)."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig(**(LARGE | changes), dtype=dtype)
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model = XLMRobertaModel(config, add_pooling_layer=False)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)
