"""A clip as it comes in, its result, and what the clips of one stream add up to: the shapes every door shares."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from pydantic import Field

from serve_app.posts import Frozen, Id, LanguageTag, ModelReport, Moment

MAX_START_S = 366 * 86_400.0  # a stream longer than a year is a client's error

Action = Literal["allow", "review", "block"]


class ClipFields(Frozen):
    """What is said of a clip beside its stream and its sound."""

    start_s: float = Field(
        ge=0, le=MAX_START_S, allow_inf_nan=False, description="Where it begins, in seconds since the stream began."
    )
    created_at: Moment = Field(description="When its last sample was recorded, with a time zone (RFC 3339).")
    language: LanguageTag | None = Field(
        None, description="BCP-47 tag of what is spoken; the default model where missing."
    )


class Clip(ClipFields):
    """One window of a stream's sound, without the sound. (stream_id, start_s) is its identity."""

    stream_id: Id = Field(description="The client's own id: up to 128 characters, no white space or slash.")

    @property
    def start_ms(self) -> int:
        """The identity's second half, exact: two clips less than a millisecond apart are the same."""
        return round(self.start_s * 1000)


class ClipResult(Frozen):
    """What was found in one clip."""

    stream_id: str
    start_s: float
    duration_s: float
    created_at: datetime
    decided_at: datetime
    age_s: float  # decided_at - created_at
    language: str | None  # as the client gave it
    model_language: str | None  # the language whose model judged; None for the default model
    fallback: bool  # no model of the clip's language: the default model judged
    skipped: Literal["no_speech"] | None = None  # the voice gate: no model looked at it, there are no scores
    speech_s: float | None = None  # found by the voice gate, where it is on
    nsfw_score: float | None = None  # 1 - P(safe)
    category_scores: Mapping[str, float] | None = None  # seven, summing to 1
    policy_version: str
    model: ModelReport | None = None
    sound_sha256: str  # of the 16 kHz float32 samples that were judged
    timings_s: Mapping[str, float] = {}

    @property
    def start_ms(self) -> int:
        return round(self.start_s * 1000)


class Window(Frozen):
    """A clip as the state remembers it."""

    start_ms: int
    duration_ms: int
    language: str | None = None  # whose thresholds count
    scores: Mapping[str, float] = {}  # of the six unsafe categories and `any`; empty for a skipped clip


class Flag(Frozen):
    """A category that has been raised and not yet lowered."""

    category: str  # one of six, or `any`
    action: Action  # review or block
    since_ms: int  # start of the window that raised it


class StreamState(Frozen):
    """What the windows of one stream add up to, in order of their start, whatever order they came in."""

    stream_id: str
    policy_version: str
    language: str | None = None
    action: Action = "allow"
    flags: tuple[Flag, ...] = ()
    clips: int = 0  # distinct ones counted so far, late ones included
    late: int = 0  # of them, older than the horizon: kept, without effect on the state
    windows: tuple[Window, ...] = ()  # the newest, oldest first: what may still change
    base_flags: tuple[Flag, ...] = ()  # what stood before the first of `windows`
    base_windows: tuple[Window, ...] = ()  # the windows before it that the next decision looks back at


class StateChange(Frozen):
    """A change of a stream's action, and the windows that made it: the evidence of an event."""

    kind: Literal["flagged", "cleared"]
    stream_id: str
    action: Action
    previous_action: Action
    flags: tuple[Flag, ...]
    windows: tuple[Window, ...]
    policy_version: str
