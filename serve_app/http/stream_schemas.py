"""The JSON shapes of the routes of streams."""

from __future__ import annotations

from serve_app.http.schemas import Shape
from serve_app.http.search_schemas import MediaFields
from serve_app.posts import Id
from serve_app.streams.values import Action, ClipFields, ClipResult, Flag, StreamState, Window


class ClipRequest(ClipFields, MediaFields):
    """One clip; its sound as media_base64, media_url, or the part `media` of a multipart request."""


class FlagBody(Shape):
    category: str
    action: Action
    since_s: float

    @classmethod
    def of(cls, flag: Flag) -> FlagBody:
        return cls(category=flag.category, action=flag.action, since_s=flag.since_ms / 1000)


class WindowBody(Shape):
    start_s: float
    end_s: float
    scores: dict[str, float]  # of the six unsafe categories and `any`; empty where no speech was found

    @classmethod
    def of(cls, window: Window) -> WindowBody:
        end_ms = window.start_ms + window.duration_ms
        return cls(start_s=window.start_ms / 1000, end_s=end_ms / 1000, scores=dict(window.scores))


class StreamBody(Shape):
    """What the clips of a stream add up to."""

    stream_id: Id
    action: Action
    flags: list[FlagBody]
    clips: int
    late: int  # of them, too old to count
    language: str | None
    policy_version: str
    windows: list[WindowBody]  # the newest ones, oldest first

    @classmethod
    def of(cls, state: StreamState, windows: int) -> StreamBody:
        return cls(
            stream_id=state.stream_id,
            action=state.action,
            flags=[FlagBody.of(flag) for flag in state.flags],
            clips=state.clips,
            late=state.late,
            language=state.language,
            policy_version=state.policy_version,
            windows=[WindowBody.of(window) for window in state.windows[-windows:]],
        )


class ClipBody(Shape):
    clip: ClipResult
    stream: StreamBody


class PieceBody(Shape):
    clips: list[ClipResult]
    stream: StreamBody


class ClipsBody(Shape):
    clips: list[ClipResult]  # newest first
