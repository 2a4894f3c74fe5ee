"""What runs a trunk: torch, or OpenVINO on a CPU. Prepared clips in, (rows, hidden) for each out.

On a CPU every clip runs alone at its own length: company costs time there and changes nothing. On a GPU the clips of a
batch run together, padded and masked (`trunk.py`).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.runtime.device import prepare_torch, resolve_precision
from deployments.runtime.values import SAMPLE_RATE_HZ
from deployments.wav2vec2.settings import Wav2Vec2Settings

if TYPE_CHECKING:
    import torch

    from deployments.wav2vec2.trunk import Trunk

Rows = NDArray[np.float32]
"""(rows, hidden): means over time of the hidden states a head may want."""


class TrunkRuntime(Protocol):
    def __call__(self, clips: Sequence[NDArray[np.float32]]) -> list[Rows]:
        """Clips (n,) as the checkpoint's preprocessor leaves them, of any lengths, in order."""
        ...


def make_runtime(trunk: Trunk, settings: Wav2Vec2Settings) -> TrunkRuntime:
    """The runtime the settings name; takes the trunk over, and may change or drop it."""
    if settings.resolved_runtime == "openvino":
        return OpenVinoRuntime(trunk, settings.threads, resolve_precision(settings))
    device, dtype = prepare_torch(settings)
    return TorchRuntime(trunk, device, dtype)


class TorchRuntime:
    """Eager torch, with SDPA."""

    def __init__(self, trunk: Trunk, device: torch.device, dtype: torch.dtype) -> None:
        self._trunk = trunk.to(device, dtype)
        self._device, self._dtype = device, dtype

    def __call__(self, clips: Sequence[NDArray[np.float32]]) -> list[Rows]:
        if self._device.type == "cpu":
            return [self.alone(clip) for clip in clips]
        return self.together(clips)

    def alone(self, clip: NDArray[np.float32]) -> Rows:
        import torch

        with torch.inference_mode():
            samples = torch.from_numpy(clip).to(self._device, self._dtype)
            rows: Rows = self._trunk(samples.unsqueeze(0))[0].cpu().numpy()
        return rows

    def together(self, clips: Sequence[NDArray[np.float32]]) -> list[Rows]:
        """One pass over all: padded with zeros, and masked unless all are of one length."""
        import torch

        sizes = [len(clip) for clip in clips]
        padded = np.zeros((len(clips), max(sizes)), np.float32)
        for row, clip in zip(padded, clips, strict=True):
            row[: len(clip)] = clip
        with torch.inference_mode():
            samples = torch.from_numpy(padded).to(self._device, self._dtype)
            lengths = None if len(set(sizes)) == 1 else torch.tensor(sizes, device=self._device)
            return list(self._trunk(samples, lengths).cpu().numpy())


class OpenVinoRuntime:
    """OpenVINO's CPU plugin: any length without recompiling."""

    def __init__(self, trunk: Trunk, threads: int, precision: Literal["fp32", "bf16"]) -> None:
        import openvino as ov

        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "ENABLE_CPU_PINNING": False,  # several replicas on one machine would be pinned to the same cores
            # Kernels are kept by clip length: with the default of 5000 entries memory grows by 6 MB a length.
            "CPU_RUNTIME_CACHE_CAPACITY": 100,
        }
        core = ov.Core()
        if precision == "fp32":
            self._compiled = core.compile_model(_convert(trunk), "CPU", config)
        else:
            self._compiled = _compile_halved(core, _convert(trunk), config)

    def __call__(self, clips: Sequence[NDArray[np.float32]]) -> list[Rows]:
        return [np.array(self._compiled(clip[None])[0][0]) for clip in clips]


def _compile_halved(core: Any, model: Any, config: dict[str, Any]) -> Any:
    """The plugin keeps a model's own constants beside those it has repacked: written through fp16 they are half."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trunk.xml"
        ov.save_model(model, path, compress_to_fp16=True)
        return core.compile_model(core.read_model(path), "CPU", config)


def resident_bytes(config: Any, settings: Wav2Vec2Settings) -> int:
    """Memory a loaded trunk keeps: its weights, and for OpenVINO the buffers of the longest clip, which it never frees.

    Measured for wav2vec2-base at 20 s: OpenVINO bf16 374 MB and 196 MB, fp32 734 and 384; torch its weights alone.
    While it loads, a model takes up to the size of its fp32 weights more. Beside all models, a process that hears clips
    of many lengths keeps 300 MB of OpenVINO's kernels, and no more from some 80 lengths on.
    """
    from deployments.wav2vec2.checkpoint import build_empty

    parameters: int = sum(tensor.numel() for tensor in build_empty(config).wav2vec2.parameters())
    width = 2 if resolve_precision(settings) == "bf16" else 4
    if settings.resolved_runtime == "torch":
        return parameters * width
    frames = settings.max_clip_s * SAMPLE_RATE_HZ / config.conv_stride[0]
    buffers: int = (
        3 * round(frames) * config.conv_dim[0] * width
    )  # the first convolution's output is by far the largest
    return 2 * parameters * width + buffers


def _convert(trunk: Trunk) -> Any:
    """An OpenVINO model (1, n) -> (1, rows, hidden) fp32, n free."""
    import openvino as ov
    import torch

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing is deprecated, and checks of sizes that only training needs
        example = torch.zeros(1, SAMPLE_RATE_HZ)
        return ov.convert_model(trunk, example_input=(example,), input=[ov.PartialShape([1, -1])])
