"""The VGG stack: log-mel examples (n, 96, 64) -> embeddings (n, 128). Names of modules are torchvggish's.

Configuration A of Simonyan & Zisserman with four groups, as in Hershey et al. 2017. `width` scales every layer but the
last: 64 is the published network (72 M parameters), 4 the small variant (0.3 M).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployments.vggish.log_mel import EXAMPLE_FRAMES, MEL_BANDS
from deployments.vggish.settings import FULL_WIDTH

EMBEDDING = 128


class VggishNetwork(nn.Module):
    """state_dict: features.{0,3,6,8,11,13}.{weight,bias} and embeddings.{0,2,4}.{weight,bias}."""

    def __init__(self, width: int = FULL_WIDTH) -> None:
        super().__init__()
        hidden = 64 * width
        self.features = _features(width)
        self.embeddings = nn.Sequential(
            nn.Linear(8 * width * (EXAMPLE_FRAMES // 16) * (MEL_BANDS // 16), hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, EMBEDDING),
            nn.ReLU(inplace=True),
        )

    def forward(self, log_mel: Tensor) -> Tensor:
        """(n, 96, 64) -> (n, 128), never negative: torchvggish ends in a ReLU, and so does this."""
        maps = self.features(log_mel.unsqueeze(1))  # (n, 8 width, 6, 4)
        flat = maps.permute(0, 2, 3, 1).reshape(len(maps), -1)  # channels last, as the TensorFlow weights expect
        embedding: Tensor = self.embeddings(flat)
        return embedding


def _features(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 1
    for group in ([1], [2], [4, 4], [8, 8]):
        for multiple in group:
            layers += [nn.Conv2d(channels, multiple * width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = multiple * width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def for_inference(network: VggishNetwork, device: torch.device, dtype: torch.dtype) -> VggishNetwork:
    """Frozen, on its device, in the layout convolutions are fastest in."""
    network.eval().requires_grad_(False)
    return network.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
