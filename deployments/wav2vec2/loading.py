"""From an opened checkpoint to a trunk that is ready to serve, with its agreement to fp32 measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.runtime.device import prepare_torch
from deployments.wav2vec2.agreement import Agreement, measure, prepared_probes, reference_rows, require
from deployments.wav2vec2.checkpoint import Checkpoint, build_trunk
from deployments.wav2vec2.head import Head
from deployments.wav2vec2.runtimes import TrunkRuntime, make_runtime
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.trunk import Trunk


@dataclass(frozen=True)
class LoadedTrunk:
    runtime: TrunkRuntime
    agreement: Agreement


def load_trunk(
    checkpoint: Checkpoint, heads: Sequence[tuple[Head, Checkpoint]], settings: Wav2Vec2Settings
) -> LoadedTrunk:
    """The trunk of `checkpoint`, for all the heads that stand on it.

    Raises:
        WrongWeights: its file changed since it was opened, or holds values that are not finite.
        ModelError: as served it does not agree with fp32.
    """
    prepare_torch(settings)  # this process's threads
    model = build_trunk(checkpoint)
    all_layers = any(own.weighted_layers for _, own in heads)
    probes = prepared_probes(checkpoint.do_normalize)
    expected = reference_rows(model, probes, all_layers)
    fold_weight_norm(model)
    runtime = make_runtime(Trunk(model, all_layers).eval(), settings)
    agreement = measure(runtime, probes, expected, [(head, own.label_map) for head, own in heads])
    require(agreement, checkpoint.source, settings.min_agreement, settings.max_score_shift)
    return LoadedTrunk(runtime, agreement)


def fold_weight_norm(model: Any) -> None:
    """The positional convolution's weight as one tensor, instead of a direction and a norm at every pass."""
    from torch.nn.utils import parametrize

    parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
