"""What the operator may set about the classifier of livestream clips."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from deployments.policy.policy import CATEGORIES
from deployments.runtime.device import DeviceSettings
from deployments.wav2vec2.routing import check_tag

SMALL = "wav2vec2-small"
"""Stands for the directory of the small model that ships with the code."""

UNDETERMINED = "und"
"""BCP-47's tag for a language that is not known."""


class Wav2Vec2Settings(DeviceSettings):
    """One Hugging Face `Wav2Vec2ForSequenceClassification` checkpoint for each language."""

    variant: Literal["wav2vec2", "fake"] = Field(
        "wav2vec2", description="fake: loudness and pitch instead of a model, for tests; languages are routed as ever."
    )
    models: dict[str, str] = Field(
        {UNDETERMINED: SMALL},
        min_length=1,
        description="BCP-47 tag -> directory of a checkpoint, hub id, or `wav2vec2-small` (ships with the code, "
        "trained on generated sound: judges no speech). `hi` also serves `hi-IN` and `hi-Latn`.",
    )
    default: str = Field(
        UNDETERMINED, description="Tag in `models` that judges every language not in it; results then say so."
    )
    label_map: dict[str, str] = Field(
        {},
        description="Label of a checkpoint -> category; labels that are named like a category need none. Several "
        "labels may share a category: their probabilities add up.",
    )
    weights: Literal["checkpoint", "random"] = Field(
        "checkpoint",
        description="random: wav2vec2-base's true shape with untrained weights, whatever `models` says. For "
        "benchmarks only; results then say `random`.",
    )
    allow_hub: bool = Field(False, description="Let a hub id be downloaded; otherwise only its local cache is read.")
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="auto: OpenVINO on a CPU (the fastest there in bf16 and in fp32), torch on a GPU."
    )
    min_agreement: float = Field(
        0.998,
        ge=-1,
        le=1,
        description="Least cosine of the pooled hidden state to transformers' own fp32 pass over fixed generated "
        "clips, measured at every load; below it the model is refused.",
    )
    max_score_shift: float = Field(
        0.02, gt=0, description="Largest change of any category's probability on the same clips; above it, refused."
    )
    cache_bytes: int = Field(
        4 << 30,
        ge=1,
        description="Memory for resident language models, working memory included; the least recently used one "
        "leaves. Models that share a trunk count it once.",
    )
    preload: Literal["default", "fitting"] = Field(
        "fitting",
        description="fitting: at start load models, default first, until the memory is full; default: only that one. "
        "The others load at their first clip.",
    )
    retry_load_after_s: float = Field(
        300.0,
        ge=0,
        description="After a language's model could not be loaded, its clips are refused for so long without another "
        "look: a load makes room first, and the models that leave for it are good ones.",
    )
    max_clip_s: float = Field(20.5, gt=0, description="Longer clips are refused.")
    voice_gate: Literal["off", "on"] = Field(
        "off", description="on: clips with too little speech (Silero VAD) are skipped, without probabilities."
    )
    min_speech_s: float = Field(0.25, ge=0, description="Least speech in a clip that the gate lets through.")
    voice_threshold: float = Field(
        0.5, gt=0, lt=1, description="The gate's own probability above which 32 ms count as speech."
    )

    @field_validator("models")
    @classmethod
    def _tags(cls, models: dict[str, str]) -> dict[str, str]:
        lowered = [check_tag(tag).lower() for tag in models]
        if len(set(lowered)) != len(lowered):
            raise ValueError("two entries of `models` are the same language tag; letter case does not tell tags apart")
        return models

    @model_validator(mode="after")
    def _consistent(self) -> Wav2Vec2Settings:
        if self.default not in self.models:
            raise ValueError(f"default {self.default!r} is not in `models` ({', '.join(self.models)})")
        unknown = sorted(set(self.label_map.values()) - set(CATEGORIES))
        if unknown:
            raise ValueError(f"label_map: {', '.join(unknown)} is not a category ({', '.join(CATEGORIES)})")
        if self.runtime == "openvino" and self.device == "cuda":
            raise ValueError("runtime 'openvino' is for device 'cpu'; on 'cuda' set 'torch' or 'auto'")
        return self

    @property
    def resolved_runtime(self) -> Literal["torch", "openvino"]:
        if self.runtime != "auto":
            return self.runtime
        return "torch" if self.device == "cuda" else "openvino"
