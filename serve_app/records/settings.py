"""How long the records keep what grows with every event."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

_DAY_S = 86_400.0


class RetentionSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    clips_s: float | None = Field(
        30 * _DAY_S, gt=0, description="Clips of streams, from their judgement; a stream goes with its last clip."
    )
    consumed_events_s: float | None = Field(
        14 * _DAY_S,
        gt=0,
        description="Ids of events that were worked off; keep them longer than the broker keeps its messages.",
    )
    dead_letters_s: float | None = Field(
        30 * _DAY_S, gt=0, description="Dead letters, from their replay. One that was not replayed is kept."
    )
    published_events_s: float | None = Field(
        7 * _DAY_S, gt=0, description="Events of the outbox, from their publication; one with an open webhook is kept."
    )
    deliveries_s: float | None = Field(
        7 * _DAY_S, gt=0, description="Webhook deliveries, from their success or from when they were given up."
    )


__all__ = ["RetentionSettings"]
