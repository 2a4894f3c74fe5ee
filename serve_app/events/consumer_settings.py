"""How the consumer works off what a broker holds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ConsumerSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch: int = Field(8, ge=1, le=512, description="Messages taken at once, and stored in one transaction.")
    max_in_flight: int = Field(
        32, ge=1, le=4096, description="Messages in work at once; when so many are, none is taken: back-pressure."
    )
    max_in_flight_bytes: int = Field(
        256 * 2**20,
        ge=1,
        description="Bytes of the messages in work together; a single larger message is taken alone. Media sent within "
        "a message count, media behind a URL do not.",
    )
    wait_s: float = Field(0.5, gt=0, le=30, description="How long an idle consumer waits in one look at the broker.")
    attempt_s: float = Field(120.0, gt=0, description="Time one attempt at one message may take.")
    max_attempts: int = Field(
        5,
        ge=1,
        description="Attempts at a message that fails by itself, before it is a dead letter. A node that is "
        "down fails nobody: such a message waits, as it does where `attempt_s` passes and no other is worked off.",
    )
    retry_base_s: float = Field(
        0.5, gt=0, description="Pause before the second attempt; doubles with each further one."
    )
    retry_max_s: float = Field(15.0, gt=0, description="Longest pause between two attempts.")
    drain_s: float = Field(
        25.0, ge=0, description="Time for what is in work when the process is told to stop; the rest goes back."
    )
