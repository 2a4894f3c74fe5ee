"""Packed, bucketed and padded runs of one model give the same vectors, and each keeps to its rules."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from deployments.xlmr.checkpoint import first_position
from deployments.xlmr.encoder import TextEncoder
from deployments.xlmr.forward import BucketedForward, PackedForward, can_pack, make_linear
from deployments.xlmr.random_weights import build_random
from deployments.xlmr.settings import XlmrSettings
from tests.xlmr.conftest import TINY, tiny_tokenizer

LENGTHS = [3, 5, 4, 10, 5, 3, 32, 1]
ROWS = [[0, *(4 + (at * 7 + length) % 16 for at in range(length - 1))] for length in LENGTHS]


def tiny_xlmr() -> Any:
    return build_random(torch.float32, **TINY)


def tiny_bert() -> Any:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def one_by_one(model: Any) -> np.ndarray:
    with torch.inference_mode():
        return np.stack([model(torch.tensor([row])).last_hidden_state[0].mean(0).numpy() for row in ROWS])


@pytest.mark.parametrize("make", [tiny_xlmr, tiny_bert])
@pytest.mark.parametrize("max_tokens", [8, 16_384])
def test_packed_equals_the_model_run_one_text_at_a_time(make: Any, max_tokens: int) -> None:
    model = make()
    expected = one_by_one(model)
    assert can_pack(model)
    forward = PackedForward(model, first_position(model), max_tokens)
    np.testing.assert_allclose(forward(ROWS), expected, atol=3e-6)


@pytest.mark.parametrize("multiple", [1, 8, 64])
def test_bucketed_equals_the_model_run_one_text_at_a_time(multiple: int) -> None:
    model = tiny_xlmr()
    forward = BucketedForward(model, pad_id=1, limit=32, max_tokens=64, multiple=multiple)
    np.testing.assert_allclose(forward(ROWS), one_by_one(model), atol=3e-6)


def test_without_onednn_the_products_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_xlmr()
    expected = PackedForward(copy.deepcopy(model), 2, 16_384)(ROWS)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    np.testing.assert_allclose(PackedForward(model, 2, 16_384)(ROWS), expected, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [False, True])
def test_a_linear_layer_is_what_torch_computes(dtype: torch.dtype, gelu: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((5, 16), (8, 16), (8,)))
    expected = torch.nn.functional.linear(x, weight, bias)
    expected = torch.nn.functional.gelu(expected) if gelu else expected
    torch.testing.assert_close(make_linear(weight, bias, gelu)(x), expected, rtol=2e-2, atol=2e-2)


def test_only_texts_of_one_rounded_length_share_a_bucketed_pass() -> None:
    exact = BucketedForward(tiny_xlmr(), pad_id=1, limit=32, max_tokens=10, multiple=1)
    assert list(exact.passes([3, 5, 4, 5, 5])) == [([0], 3), ([2], 4), ([1, 3], 5), ([4], 5)]
    rounded = BucketedForward(tiny_xlmr(), pad_id=1, limit=30, max_tokens=100, multiple=8)
    assert list(rounded.passes([3, 8, 9, 30])) == [([0, 1], 8), ([2], 16), ([3], 30)]


def test_a_packed_pass_stays_within_its_token_budget_and_loses_nothing() -> None:
    forward = PackedForward(tiny_xlmr(), 2, max_tokens=12)
    passes = [[len(row) for row in chunk] for chunk in forward.passes(ROWS)]
    assert passes == [[3, 5, 4], [10], [5, 3], [32], [1]]


def test_a_family_whose_layers_are_not_known_runs_bucketed(tmp_path: Path) -> None:
    config = DistilBertConfig(vocab_size=40, dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=32)
    DistilBertModel(config).save_pretrained(tmp_path)
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    encoder = TextEncoder(XlmrSettings(model=str(tmp_path), precision="fp32"))
    encoder.load()
    assert isinstance(encoder._forward, BucketedForward)
    assert encoder.card.dimension == 32
