"""What the hardware allows: FLOPs of one clip, and the matrix product it is measured against in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from deployments.runtime.values import SAMPLE_RATE_HZ

_SHAPES = ((1000, 768, 3072), (1000, 3072, 768))  # the transformer's own; larger ones are no faster
_RUNS = 10


def flops(config: Any, seconds: float) -> float:
    """Multiply-adds twice, of convolutions and matrix products; normalisation and activations are left out."""
    length, channels = round(seconds * SAMPLE_RATE_HZ), 1
    total = 0.0
    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        length = (length - kernel) // stride + 1
        total += 2.0 * length * width * channels * kernel
        channels = width
    hidden, wide = config.hidden_size, config.intermediate_size
    total += 2.0 * length * channels * hidden
    positional = config.num_conv_pos_embeddings * hidden // config.num_conv_pos_embedding_groups
    total += 2.0 * length * hidden * positional
    layer: float = 2.0 * length * (4 * hidden * hidden + 2 * hidden * wide) + 4.0 * length * length * hidden
    return float(total + config.num_hidden_layers * layer)


def core_flops_per_s(dtype: torch.dtype) -> float:
    """One thread's best, by processor time: a linear layer (MKL in fp32, oneDNN in bf16), or a convolution of width 1
    (oneDNN in both)."""
    torch.set_num_threads(1)
    best = 0.0
    with torch.inference_mode():
        for m, k, n in _SHAPES:
            a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
            turned, kernel = a.T.contiguous()[None], b[..., None]
            spent_s = [_spent_s(functional.linear, a, b) for _ in range(_RUNS)]
            spent_s += [_spent_s(functional.conv1d, turned, kernel) for _ in range(_RUNS)]
            best = max(best, 2.0 * m * k * n / min(spent_s))
    return best


def gpu_flops_per_s() -> float:
    """bf16 matrix product of 8192, the best of some."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    best = 0.0
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        best = max(best, 2.0 * 8192**3 / (time.perf_counter() - started))
    return best


def _spent_s(call: Callable[[torch.Tensor, torch.Tensor], object], a: torch.Tensor, b: torch.Tensor) -> float:
    started = time.process_time()
    call(a, b)
    return time.process_time() - started
