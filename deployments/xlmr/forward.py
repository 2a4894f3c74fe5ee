"""Token ids of several texts in, one mean vector per text out; two ways of running the same model.

Bucketed: any encoder. Texts of one length (on a GPU: of one rounded length, masked) share a pass.
Packed: BERT's and RoBERTa's layer on a CPU. All texts lie end to end as one long row of tokens through every matrix
product, and only attention looks at each text by itself: as few and as large products as there can be, no padding.
Measured on one core with 24 texts of 8 to 55 tokens (e5-small, ms per text, bucketed -> packed): fp32 20.4 -> 7.0,
bf16 12.9 -> 4.9; the same vectors to rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Rows = Sequence[list[int]]
Linear = Callable[["torch.Tensor"], "torch.Tensor"]

_PACKED_TYPES = {"bert", "roberta", "xlm-roberta", "camembert"}
_ROWS_HINT = 256  # oneDNN lays the weights out for about this many tokens; any number runs


class Forward(Protocol):
    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        """(texts, dimension) means of the last hidden states, in the order of `rows`."""
        ...


class BucketedForward:
    """`multiple` 1 runs each exact length by itself, unpadded and unmasked; above 1 lengths are rounded up to it."""

    def __init__(self, model: Any, pad_id: int, limit: int, max_tokens: int, multiple: int = 1) -> None:
        self._model, self._pad_id, self._limit = model, pad_id, limit
        self._max_tokens, self._multiple = max_tokens, multiple
        self._device = next(model.parameters()).device

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        means: list[NDArray[np.float32]] = []
        order: list[int] = []
        for indices, width in self.passes([len(row) for row in rows]):
            means.append(self._run([rows[index] for index in indices], width))
            order += indices
        return np.concatenate(means)[np.argsort(order)]

    def passes(self, lengths: Sequence[int]) -> Iterator[tuple[list[int], int]]:
        """Groups of indices with the width they are run at, each within the token budget."""
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for index, length in enumerate(lengths):
            groups[min(self._limit, -(-length // self._multiple) * self._multiple)].append(index)
        for width, indices in sorted(groups.items()):
            size = max(1, self._max_tokens // width)
            for start in range(0, len(indices), size):
                yield indices[start : start + size], width

    def _run(self, rows: Rows, width: int) -> NDArray[np.float32]:
        import torch

        lengths = torch.tensor([len(row) for row in rows], device=self._device)[:, None]  # (texts, 1)
        padded = [row + [self._pad_id] * (width - len(row)) for row in rows]
        ids = torch.tensor(padded, device=self._device)  # (texts, width) int64
        with torch.inference_mode():
            if min(map(len, rows)) == width:
                hidden = self._model(input_ids=ids).last_hidden_state.float()  # (texts, width, dimension)
                return _array(hidden.mean(dim=1))
            mask = torch.arange(width, device=self._device) < lengths  # (texts, width)
            hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
            return _array((hidden * mask[:, :, None]).sum(dim=1) / lengths)


class PackedForward:
    """Takes the model's weights over: where oneDNN lays them out anew, the model's own copy of them is freed."""

    def __init__(self, model: Any, first_position: int, max_tokens: int) -> None:
        self._embeddings, self._first_position, self._max_tokens = model.embeddings, first_position, max_tokens
        self._heads = int(model.config.num_attention_heads)
        self._layers = [_Layer(layer) for layer in model.encoder.layer]

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            return np.concatenate([self._run(chunk) for chunk in self.passes(rows)])

    def passes(self, rows: Rows) -> Iterator[Rows]:
        """Consecutive rows within the token budget (a single longer one by itself)."""
        start, tokens = 0, 0
        for end, row in enumerate(rows):
            if tokens + len(row) > self._max_tokens and end > start:
                yield rows[start:end]
                start, tokens = end, 0
            tokens += len(row)
        if start < len(rows):
            yield rows[start:]

    def _run(self, rows: Rows) -> NDArray[np.float32]:
        import torch

        lengths = [len(row) for row in rows]
        ids = torch.tensor([token for row in rows for token in row])  # (tokens,)
        positions = torch.cat([torch.arange(length) for length in lengths]) + self._first_position
        table = self._embeddings
        x = table.word_embeddings(ids) + table.token_type_embeddings.weight[0] + table.position_embeddings(positions)
        x = table.LayerNorm(x)  # (tokens, dimension)
        for layer in self._layers:
            x = layer(x, lengths, self._heads)
        return _array(torch.stack([text.float().mean(dim=0) for text in torch.split(x, lengths)]))


class _Layer:
    """One post-norm transformer layer over packed tokens."""

    def __init__(self, layer: Any) -> None:
        import torch

        attention = layer.attention.self
        projections = (attention.query, attention.key, attention.value)
        weight = torch.cat([projection.weight for projection in projections])  # (3 dimension, dimension)
        bias = torch.cat([projection.bias for projection in projections])
        for projection in projections:
            projection.weight = None
        self._query_key_value = make_linear(weight, bias)
        self._attended, self._norm = _take_linear(layer.attention.output.dense), layer.attention.output.LayerNorm
        self._up = _take_linear(layer.intermediate.dense, gelu=True)
        self._down, self._last_norm = _take_linear(layer.output.dense), layer.output.LayerNorm

    def __call__(self, x: torch.Tensor, lengths: list[int], heads: int) -> torch.Tensor:
        tokens, dimension = x.shape
        packed = self._query_key_value(x).view(tokens, 3, heads, dimension // heads)
        x = self._norm(x + self._attended(_attend(packed, lengths).reshape(tokens, dimension)))
        normed: torch.Tensor = self._last_norm(x + self._down(self._up(x)))
        return normed


def _attend(packed: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Each text's tokens among themselves: (tokens, 3, heads, head size) to (tokens, heads, head size)."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    if len(set(lengths)) == 1:  # all in one call
        texts = packed.view(len(lengths), lengths[0], *packed.shape[1:])
        query, key, value = texts.permute(2, 0, 3, 1, 4)  # each (texts, heads, length, head size)
        return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1)
    return torch.cat([_attend(text, [len(text)]) for text in torch.split(packed, lengths)])


def _take_linear(module: Any, gelu: bool = False) -> Linear:
    weight, module.weight = module.weight, None
    return make_linear(weight, module.bias, gelu)


def make_linear(weight: torch.Tensor, bias: torch.Tensor, gelu: bool = False) -> Linear:
    """x @ weight.T + bias, then GELU if asked for. oneDNN with weights laid out once, else torch's own product.

    torch multiplies fp32 through MKL, which on AMD reaches half of the core's peak with few rows; oneDNN reaches
    nearly all of it. The operators are the ones torch.compile emits; they are private, so their absence is expected.
    """
    import torch
    from torch.nn.functional import gelu as gelu_of
    from torch.nn.functional import linear

    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS_HINT)
        run = torch.ops.mkldnn._linear_pointwise.default
        activation = "gelu" if gelu else "none"
        run(weight.new_zeros(1, weight.shape[1]), packed, bias, activation, [], "none")
    except (AttributeError, RuntimeError):  # NotImplementedError is a RuntimeError
        return (lambda x: gelu_of(linear(x, weight, bias))) if gelu else (lambda x: linear(x, weight, bias))
    return lambda x: run(x, packed, bias, activation, [], "none")


def can_pack(model: Any) -> bool:
    """True for the layers that PackedForward knows, on a CPU."""
    config = model.config
    absolute = getattr(config, "position_embedding_type", None) in (None, "absolute")
    known = config.model_type in _PACKED_TYPES and config.hidden_act == "gelu" and absolute
    return known and next(model.parameters()).device.type == "cpu"


def _array(values: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(values.cpu().numpy(), np.float32)
