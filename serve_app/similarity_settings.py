"""Every setting of what surrounds the similarity node: index jobs, reuse, quarantine, reconciliation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class IndexingSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    reuse_verdicts: bool = Field(
        True, description="An exact re-upload, judged before by the same models and policy, skips the encoders."
    )
    match_timeout_s: float = Field(
        5.0, gt=0, description="How long a verdict waits for the search for matches, in seconds; then it says `failed`."
    )
    poll_s: float = Field(0.1, gt=0, le=1, description="Pause between two looks for index jobs, in seconds.")
    batch: int = Field(32, ge=1, le=1024, description="Index jobs one ingress replica takes at once.")
    busy_s: float = Field(30.0, ge=1, description="After how long a worker that has a job counts as dead, in seconds.")
    retry_base_s: float = Field(0.2, gt=0, description="Pause after a job's first failure; doubles with each further.")
    retry_max_s: float = Field(30.0, gt=0, description="Longest such pause, in seconds.")
    reconcile_every_s: float = Field(
        3600.0, gt=0, description="How often records and index are compared, in seconds; what one lacks is mended."
    )
    quarantine_posts: int = Field(
        1000, ge=1, description="A reference that matches more distinct posts within the window is quarantined."
    )
    quarantine_window_s: float = Field(3600.0, gt=0, description="That window, in seconds.")
    max_list_entries: int = Field(200_000, ge=1, description="Most entries of one hash list.")
    max_batch: int = Field(64, ge=1, le=1024, description="Most searches, items or references of one batch request.")
