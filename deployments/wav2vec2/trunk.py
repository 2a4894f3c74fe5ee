"""wav2vec2's trunk as one module: samples in, the means over time of its hidden states out.

It runs transformers' own submodules, with what transformers leaves out: clips of different lengths may share a batch,
because everything that looks along time is masked. That is three things: the statistics of the group norm after the
first convolution (the base models'), the attention, and the mean at the end. With all three a clip's result is that of
the clip alone to 3e-6; with none, as transformers pads group-norm models, the cosine falls to 0.4 for short clips
(https://github.com/huggingface/transformers/issues/21534). Convolutions need no mask: none of the first seven pads, and
the positional one pads with the zeros that stand behind a shorter clip anyway.

    (b, n) -> convolutions (b, frames, 512) -> projection (b, frames, hidden) -> layers -> means (b, rows, hidden)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Trunk(nn.Module):
    """Over a `Wav2Vec2Model` whose weight norm is folded.

    Args:
        all_layers: give, after the mean of the last hidden state, the means of all hidden states that a weighted
            layer sum adds up (the first layer's input and every layer's output).
    """

    def __init__(self, model: Any, all_layers: bool) -> None:
        super().__init__()
        self.features, self.projection = model.feature_extractor.conv_layers, model.feature_projection
        self.encoder = model.encoder
        self.stable = bool(model.config.do_stable_layer_norm)
        self.all_layers = all_layers

    def forward(self, samples: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(b, n) and (b,) true lengths in samples, or None where all are n -> (b, rows, hidden) fp32."""
        hidden, frames = self._convolve(samples.unsqueeze(1), lengths)
        hidden = self.projection.projection(self.projection.layer_norm(hidden.transpose(1, 2)))
        mask = None if frames is None else _mask(frames, hidden.shape[1])
        if mask is not None:
            hidden = hidden * mask.unsqueeze(-1)
        states, last = self._transform(hidden, mask)
        chosen = [last, *states] if self.all_layers else [last]
        return torch.stack([_mean(state, mask, frames) for state in chosen], dim=1)

    def _convolve(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(b, 1, n) -> (b, channels, frames) and each clip's true frames."""
        for layer in self.features:
            x = layer.conv(x)
            if lengths is not None:
                lengths = (lengths - layer.conv.kernel_size[0]) // layer.conv.stride[0] + 1
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                x = norm(x) if lengths is None else masked_group_norm(norm, x, lengths)
            elif norm is not None:
                x = norm(x.transpose(1, 2)).transpose(1, 2)
            x = layer.activation(x)
        return x, lengths

    def _transform(self, hidden: Tensor, mask: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """All hidden states as transformers records them, and the last one."""
        encoder = self.encoder
        hidden = hidden + encoder.pos_conv_embed(hidden)
        if not self.stable:
            hidden = encoder.layer_norm(hidden)
        keys = None if mask is None else mask[:, None, None, :]  # (b, 1, 1, frames): which frames may be looked at
        states = [hidden]
        for layer in encoder.layers:
            hidden = _layer(layer, hidden, keys, self.stable)
            states.append(hidden)
        return states, encoder.layer_norm(hidden) if self.stable else hidden


def masked_group_norm(norm: nn.GroupNorm, x: Tensor, lengths: Tensor) -> Tensor:
    """Group norm with one group a channel over each clip's own `lengths` of (b, channels, time), in fp32.

    What stands behind a clip's end comes out as some finite number; nothing that is kept looks at it.
    """
    valid = _mask(lengths, x.shape[2]).unsqueeze(1)
    count = lengths.view(-1, 1, 1)
    wide = x.float()
    mean = (wide * valid).sum(2, keepdim=True) / count
    variance = ((wide - mean).square() * valid).sum(2, keepdim=True) / count
    scaled = ((wide - mean) * torch.rsqrt(variance + norm.eps)).to(x.dtype)
    return scaled * norm.weight.view(1, -1, 1) + norm.bias.view(1, -1, 1)


def _layer(layer: Any, hidden: Tensor, keys: Tensor | None, stable: bool) -> Tensor:
    """One transformer layer: norm first (`do_stable_layer_norm`) or norm last."""
    if not stable:
        hidden = layer.layer_norm(hidden + _attend(layer.attention, hidden, keys))
        normal: Tensor = layer.final_layer_norm(hidden + _feed_forward(layer.feed_forward, hidden))
        return normal
    hidden = hidden + _attend(layer.attention, layer.layer_norm(hidden), keys)
    hidden = hidden + _feed_forward(layer.feed_forward, layer.final_layer_norm(hidden))
    return hidden if layer.adapter_layer is None else hidden + layer.adapter_layer(hidden)


def _attend(attention: Any, hidden: Tensor, keys: Tensor | None) -> Tensor:
    heads = (hidden.shape[0], hidden.shape[1], attention.num_heads, attention.head_dim)
    query, key, value = (
        project(hidden).view(heads).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    found = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=keys)
    attended: Tensor = attention.out_proj(found.transpose(1, 2).flatten(2))
    return attended


def _feed_forward(feed_forward: Any, hidden: Tensor) -> Tensor:
    wide = feed_forward.intermediate_act_fn(feed_forward.intermediate_dense(hidden))
    narrow: Tensor = feed_forward.output_dense(wide)
    return narrow


def _mask(lengths: Tensor, size: int) -> Tensor:
    """(b,) -> (b, size) bool, True before each length."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]


def _mean(hidden: Tensor, mask: Tensor | None, frames: Tensor | None) -> Tensor:
    """(b, frames, hidden) -> (b, hidden) fp32 over each clip's own frames."""
    if mask is None or frames is None:
        return hidden.float().mean(1)
    return (hidden.float() * mask.unsqueeze(-1)).sum(1) / frames.unsqueeze(-1)
