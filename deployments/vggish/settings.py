"""What the operator may set about the sound encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from deployments.runtime.device import DeviceSettings

FULL_WIDTH = 64
"""Channels of the first convolution of the published network."""

SMALL_WIDTH = 4
"""Channels of the first convolution of the network trained here on generated sound."""


class VggishSettings(DeviceSettings):
    """The sound node's encoder."""

    variant: Literal["vggish", "vggish-small", "fake"] = Field(
        "vggish-small",
        description="vggish: the published network, weights from `checkpoint`; vggish-small: the same architecture "
        "at a sixteenth of its width, trained here on generated sound; fake: band energies for tests, no weights.",
    )
    checkpoint: str | None = Field(
        None,
        description="State dict with the names of torchvggish (.safetensors or .pth); vggish-small: empty takes the "
        "artefact that ships with the code.",
    )
    pca_checkpoint: str | None = Field(
        None, description="File of pca_eigen_vectors and pca_means, where `checkpoint` does not hold them itself."
    )
    width: int | None = Field(
        None, ge=1, description="Channels of the first convolution; empty takes the variant's own: 64, or 4 if small."
    )
    postprocess: Literal["off", "pca", "pca-quantised"] = Field(
        "off",
        description="pca: whiten the 128 values as AudioSet's released embeddings; pca-quantised: and round them to "
        "0..255. Both need the PCA parameters.",
    )
    tail: Literal["drop", "pad"] = Field(
        "drop",
        description="Sound after the last whole 0.96 s: dropped as in the published framing, or zero-padded to one "
        "example more. Sound shorter than one example is always padded.",
    )
    weights: Literal["checkpoint", "random"] = Field(
        "checkpoint", description="random: untrained weights, for benchmarks only; verdicts then say `random`."
    )
    max_batch_examples: int = Field(
        32, ge=1, description="Examples of one forward pass: 20 are one 20 s clip; more gains little on a CPU."
    )

    @model_validator(mode="after")
    def _consistent(self) -> VggishSettings:
        if self.variant == "vggish" and self.weights == "checkpoint" and self.checkpoint is None:
            raise ValueError("variant 'vggish' needs a checkpoint: a state dict with the names of torchvggish")
        if self.weights == "random" and self.variant != "vggish":
            raise ValueError("weights 'random' is an option of variant 'vggish' only")
        if self.weights == "random" and self.postprocess != "off":
            raise ValueError("postprocess needs a checkpoint's PCA parameters: with weights 'random' set it to 'off'")
        return self

    @property
    def resolved_width(self) -> int:
        return self.width or self.own_width

    @property
    def own_width(self) -> int:
        return SMALL_WIDTH if self.variant == "vggish-small" else FULL_WIDTH
