"""Every setting of the HTTP door and of its durable jobs, in one frozen table."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIB = 1024 * 1024


class JobSettings(BaseModel):
    """How accepted posts (`Prefer: respond-async`) are worked off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(4, ge=0, le=256, description="Jobs one ingress replica runs at once; 0 runs none here.")
    poll_s: float = Field(0.5, gt=0, description="Pause between two looks at an empty queue, in seconds.")
    lease_s: float = Field(
        15.0, ge=1, description="How long a post stays with its request or worker without a sign of life, in seconds."
    )
    deadline_s: float = Field(300.0, gt=0, description="Time one attempt may take, in seconds.")
    max_attempts: int = Field(5, ge=1, description="Attempts before a job is marked failed.")
    retry_base_s: float = Field(
        1.0, gt=0, description="Pause before the second attempt; doubles with each further one."
    )
    retry_max_s: float = Field(60.0, gt=0, description="Longest pause between two attempts, in seconds.")


class HttpSettings(BaseModel):
    """Limits, deadlines and access of the HTTP door."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auth: Literal["off", "keys"] = Field(
        "keys", description="keys: every /v1 route asks for an API key. off: open, for loopback addresses only."
    )
    max_request_bytes: int = Field(96 * MIB, ge=1024, description="Largest request body; counted while it streams in.")
    max_media_bytes: int = Field(64 * MIB, ge=1, description="Largest media file, after base64 is undone.")
    max_json_bytes: int = Field(2 * MIB, ge=1024, description="Largest `post` part of a multipart request.")
    max_caption_chars: int = Field(100_000, ge=1, le=100_000, description="Longest caption or text input.")
    max_inputs: int = Field(32, ge=1, description="Most items of one batch (`input` of moderations and embeddings).")
    request_timeout_s: float = Field(
        60.0, gt=0, description="A request's total deadline (504); keep it below Serve's own request_timeout_s (408)."
    )
    idempotency_ttl_s: float = Field(86_400.0, gt=0, description="How long an Idempotency-Key is remembered.")
    media_retention_s: float | None = Field(
        None, gt=0, description="Media of posts finished longer ago than that is deleted; none keeps it until erasure."
    )
    readiness_ttl_s: float = Field(2.0, ge=0, le=30, description="How long /readyz reuses its last look at the nodes.")
    jobs: JobSettings = Field(JobSettings(), description="Durable jobs behind `Prefer: respond-async`.")

    @model_validator(mode="after")
    def _media_fits_in_request(self) -> Self:
        if self.max_media_bytes > self.max_request_bytes:
            raise ValueError("max_media_bytes is larger than max_request_bytes: no such file could be uploaded")
        return self
