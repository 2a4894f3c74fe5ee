"""What the operator may set about the visual encoder, and what is known of each architecture without loading it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from deployments.runtime.device import DeviceSettings
from deployments.runtime.values import FrameSpec

VisualModel = Literal["open-clip", "opennsfw", "fake"]
Architecture = Literal["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"]


class Geometry(NamedTuple):
    """One of CLIP's residual networks, as in Radford et al. 2021, table 19."""

    image_size: int  # pixels, both sides
    trunk_dimension: int  # channels of the last residual stage
    joint_dimension: int  # of the space shared with the text tower


GEOMETRY: dict[Architecture, Geometry] = {
    "RN50": Geometry(224, 2048, 1024),
    "RN101": Geometry(224, 2048, 512),
    "RN50x4": Geometry(288, 2560, 640),
    "RN50x16": Geometry(384, 3072, 768),
    "RN50x64": Geometry(448, 4096, 1024),
}

OPENNSFW_FRAMES = FrameSpec(mode="stretch", resize=256, crop=224, interpolation="bilinear")
FAKE_FRAMES = FrameSpec(mode="shortest_side", resize=224, crop=224, interpolation="bicubic")


def open_clip_frames(architecture: Architecture) -> FrameSpec:
    side = GEOMETRY[architecture].image_size
    return FrameSpec(mode="shortest_side", resize=side, crop=side, interpolation="bicubic")


class ClipSettings(DeviceSettings):
    """The visual node's encoder."""

    model: VisualModel = Field(
        "opennsfw",
        description="open-clip: 2048-d trunk of CLIP and its joint space with text; opennsfw: 1024-d feature and an "
        "NSFW probability, weights from a package, CPU only; fake: colour statistics for tests, no weights.",
    )
    architecture: Architecture = Field("RN50", description="Residual network of CLIP; open-clip only.")
    checkpoint: str | None = Field(
        None,
        description="open-clip: a checkpoint file, a directory holding one, or a pretrained tag such as `openai` "
        "(fetched from the hub once). opennsfw: another copy of the same ONNX file; empty takes the package's.",
    )
    weights: Literal["checkpoint", "random"] = Field(
        "checkpoint", description="random: untrained weights, for benchmarks only; verdicts then say `random`."
    )
    quick_gelu: bool = Field(
        True, description="Activation of the text tower in a checkpoint given as a file: true for OpenAI's weights."
    )
    text_tower: bool = Field(True, description="open-clip: keep the text tower, for search of video by text.")
    max_batch_frames: int = Field(
        8, ge=1, description="Frames of one forward pass. 8 is best on a CPU (32 is slower there); 64 to 256 on a GPU."
    )

    @model_validator(mode="after")
    def _consistent(self) -> ClipSettings:
        if self.model == "opennsfw" and self.device != "cpu":
            raise ValueError("model 'opennsfw' runs on the CPU only: set device to 'cpu', or model to 'open-clip'")
        if self.model == "open-clip" and self.weights == "checkpoint" and self.checkpoint is None:
            raise ValueError("model 'open-clip' needs a checkpoint: a path, or a pretrained tag such as 'openai'")
        if self.weights == "random" and self.model != "open-clip":
            raise ValueError("weights 'random' is an option of model 'open-clip' only")
        return self
