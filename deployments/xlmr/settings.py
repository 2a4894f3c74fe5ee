"""What the operator may set about the text node's encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deployments.runtime.device import DeviceSettings


class XlmrSettings(DeviceSettings):
    """Full profile: `FacebookAI/xlm-roberta-large`, no prefix. Local profile: multilingual-e5-small, `query: `."""

    model: str = Field(
        "FacebookAI/xlm-roberta-large",
        min_length=1,
        description="Directory of a Hugging Face encoder, a hub id, or `fake` (hashed character n-grams, for tests).",
    )
    weights: Literal["checkpoint", "random", "random-small"] = Field(
        "checkpoint",
        description="random: xlm-roberta-large's shape with untrained weights, whatever `model` says; random-small: "
        "multilingual-e5-small's, 384-d. For benchmarks only; verdicts then say `random`.",
    )
    allow_hub: bool = Field(False, description="Let a hub id be downloaded; otherwise only its local cache is read.")
    prefix: str = Field("", description="Put before every text, as the model was trained (`query: ` for e5).")
    max_tokens: int | None = Field(
        None,
        ge=8,
        description="Longer texts are cut here, special tokens included; at most, and by default, the model's limit.",
    )
    max_batch_tokens: int = Field(
        16_384, ge=512, description="Tokens of one forward pass, padding included; a larger batch takes several passes."
    )
    pad_to_multiple_of: int = Field(
        16, ge=1, description="GPU only: lengths are rounded up to this and share a pass. On a CPU nothing is padded."
    )
