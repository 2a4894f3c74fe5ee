"""AudioSet's postprocessing of VGGish embeddings: PCA with whitening, then 8-bit quantisation. Optional.

As torchvggish does it (Postprocessor in torchvggish/vggish.py of harritaylor/torchvggish, Apache-2.0), which rounds to
the nearest whole number. The original (vggish_postprocess.py of tensorflow/models) casts to uint8 and so truncates:
its values are up to 1 lower. Parameters come from the checkpoint (torchvggish's `pproc.*`) or from a file of their own
(`pca_eigen_vectors`, `pca_means`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from deployments.runtime.errors import MissingWeights
from deployments.runtime.weights import load_strictly, read_state_dict, require_file
from deployments.vggish.network import EMBEDDING

QUANTIZE_MIN, QUANTIZE_MAX = -2.0, 2.0
PREFIX = "pproc."


class Postprocessor(nn.Module):
    """state_dict: pca_matrix (128, 128) and pca_means (128, 1)."""

    def __init__(self, quantise: bool) -> None:
        super().__init__()
        self.quantise = quantise
        self.pca_matrix = nn.Parameter(torch.zeros(EMBEDDING, EMBEDDING), requires_grad=False)
        self.pca_means = nn.Parameter(torch.zeros(EMBEDDING, 1), requires_grad=False)

    def forward(self, embedding: Tensor) -> Tensor:
        """(n, 128) float32 -> (n, 128): whitened, or whole numbers 0..255 where quantised."""
        whitened = (self.pca_matrix @ (embedding.T - self.pca_means)).T
        if not self.quantise:
            return whitened
        scale = 255.0 / (QUANTIZE_MAX - QUANTIZE_MIN)
        return torch.round((whitened.clamp(QUANTIZE_MIN, QUANTIZE_MAX) - QUANTIZE_MIN) * scale)


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's tensors, and the postprocessor's with their prefix removed."""
    network = {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}
    postprocess = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    return network, postprocess


def load_postprocessor(
    quantise: bool, from_checkpoint: Mapping[str, Tensor], checkpoint: Path, pca_checkpoint: str | None
) -> Postprocessor:
    """Raises MissingWeights where neither file holds the parameters, WrongWeights where they do not fit."""
    postprocessor = Postprocessor(quantise)
    if pca_checkpoint is not None:
        path = require_file(pca_checkpoint)
        load_strictly(postprocessor, _public_names(read_state_dict(path)), path)
    elif from_checkpoint:
        load_strictly(postprocessor, from_checkpoint, checkpoint)
    else:
        raise MissingWeights(f"{checkpoint}: holds no PCA parameters; set pca_checkpoint, or postprocess to 'off'")
    return postprocessor.eval()


def _public_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`pca_eigen_vectors`, `pca_means` (128,) or (128, 1), as published -> this module's names and shapes."""
    renamed = {"pca_eigen_vectors": "pca_matrix"}
    tensors = {renamed.get(name, name.removeprefix(PREFIX)): tensor.float() for name, tensor in state.items()}
    if "pca_means" in tensors and tensors["pca_means"].ndim == 1:
        tensors["pca_means"] = tensors["pca_means"].unsqueeze(1)
    return tensors
