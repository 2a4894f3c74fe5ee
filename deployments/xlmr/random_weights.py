"""A model of a published encoder's true shape with untrained weights: for benchmarks and load tests, never a fallback.

It costs what the real one costs and its vectors mean nothing. Its tokenizer is the real XLM-R one, from the package
that the local profile uses too.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from deployments.runtime.device import resolve_precision
from deployments.runtime.values import ModelCard
from deployments.xlmr.checkpoint import OpenedModel, quiet
from deployments.xlmr.e5_conversion import tokenizer_file
from deployments.xlmr.settings import XlmrSettings
from deployments.xlmr.tokenisation import TextTokenizer, read_backend

if TYPE_CHECKING:
    import torch

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
SMALL: dict[str, int] = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
"""What intfloat/multilingual-e5-small has different."""
_SEED = 0
_NOISE = 1 << 20
_STRIDE = 7919  # so that no two matrices begin alike
_STANDARD_DEVIATION = 0.02  # `initializer_range` of the published config
_LIMIT = 512


def open_random(settings: XlmrSettings, dtype: Any) -> OpenedModel:
    """The same weights in every process. Raises MissingWeights where the tokenizer's package is not installed."""
    limit = min(_LIMIT, settings.max_tokens or sys.maxsize)
    tokenizer = TextTokenizer(read_backend(tokenizer_file().parent), settings.prefix, limit)
    name, changes = (
        ("multilingual-e5-small", SMALL) if settings.weights == "random-small" else ("xlm-roberta-large", {})
    )
    model = build_random(dtype, **changes)
    card = ModelCard(
        name=name,
        version="random-1",
        weights="random",
        dimension=int(model.config.hidden_size),
        device=settings.device,
        precision=resolve_precision(settings),
        note="untrained weights of the true shape: the vectors mean nothing",
    )
    pad_id = int(LARGE["pad_token_id"])
    return OpenedModel(model, tokenizer, pad_id + 1, pad_id, card, "random weights")


def build_random(dtype: Any, **changes: int) -> Any:
    """An XLMRobertaModel without pooler, in eval mode; `changes` override LARGE (a tiny one for tests).

    Its matrices are cut from one short run of noise: drawing 560 million numbers would take 20 s.
    """
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig(**(LARGE | changes), dtype=dtype)
    with torch.device("meta"):
        shapes = XLMRobertaModel(config, add_pooling_layer=False).state_dict()
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(_NOISE, generator=generator).mul_(_STANDARD_DEVIATION).to(dtype)
    state = {
        name: _fill(name, tensor.shape, noise.roll(at * _STRIDE)) for at, (name, tensor) in enumerate(shapes.items())
    }
    options = {"dtype": dtype, "add_pooling_layer": False, "attn_implementation": "sdpa"}
    with quiet():
        model = XLMRobertaModel.from_pretrained(None, config=config, state_dict=state, **options)
    return model.eval().requires_grad_(False)


def _fill(name: str, shape: torch.Size, noise: torch.Tensor) -> torch.Tensor:
    """Ones and zeros for layer norms and biases as at the start of training, noise for matrices."""
    import torch

    if name.endswith("bias"):
        return torch.zeros(shape, dtype=noise.dtype)
    if "LayerNorm" in name:
        return torch.ones(shape, dtype=noise.dtype)
    size = shape.numel()
    return noise.repeat(-(-size // len(noise)))[:size].view(shape).clone()
