"""Hysteresis over the windows of one stream: StreamState + ClipResult -> StreamState, and a StateChange where it acts.

Windows are folded in order of their start, whatever order they came in: the newest `HORIZON` are kept and folded
again from what stood before them. A window older than that is counted as late and changes nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from deployments.policy.matches import ACTIONS
from deployments.policy.policy import ANY, UNSAFE, Policy
from serve_app.streams.values import Action, ClipResult, Flag, StateChange, StreamState, Window

HORIZON: Final = 64  # windows; 21 minutes of 20 s clips
_RAISED: Final[tuple[Action, ...]] = ("review", "block")


class StreamRule:
    """One policy's way to read a stream."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._n, self._k = policy.streams.windows, policy.streams.enter
        self._horizon = max(HORIZON, 2 * self._n)

    def add(self, before: StreamState | None, clip: ClipResult) -> tuple[StreamState, StateChange | None]:
        """The clip must be a new one of this stream: the caller knows duplicates by (stream, start)."""
        before = before or StreamState(stream_id=clip.stream_id, policy_version=self._policy.version)
        counted = before.model_copy(update={"clips": before.clips + 1, "language": clip.language or before.language})
        window = window_of(clip)
        if before.base_windows and window.start_ms < before.base_windows[-1].start_ms:
            return counted.model_copy(update={"late": before.late + 1}), None
        at = bisect_left([kept.start_ms for kept in before.windows], window.start_ms)
        windows = (*before.windows[:at], window, *before.windows[at:])
        after = self._folded(counted, windows, at)
        return after, self._change(before, after)

    def _folded(self, state: StreamState, windows: tuple[Window, ...], at: int) -> StreamState:
        """`at`: where `windows` differs from the state's. One that came last costs one step, any other a new fold."""
        last = len(windows) - 1
        flags = self._fold(state.flags, state, windows, last) if at == last else self._fold_all(state, windows)
        leaving = max(0, len(windows) - self._horizon)
        base_flags, base_windows = state.base_flags, state.base_windows
        for window in windows[:leaving]:
            base_windows = (*base_windows, window)[-self._n :]
            base_flags = self._step(base_flags, base_windows)
        return state.model_copy(
            update={
                "policy_version": self._policy.version,
                "flags": flags,
                "action": max((flag.action for flag in flags), key=ACTIONS.index, default="allow"),
                "windows": windows[leaving:],
                "base_flags": base_flags,
                "base_windows": base_windows,
            }
        )

    def _fold_all(self, state: StreamState, windows: tuple[Window, ...]) -> tuple[Flag, ...]:
        flags = state.base_flags
        for index in range(len(windows)):
            flags = self._fold(flags, state, windows, index)
        return flags

    def _fold(
        self, flags: Sequence[Flag], state: StreamState, windows: tuple[Window, ...], index: int
    ) -> tuple[Flag, ...]:
        recent = windows[max(0, index + 1 - self._n) : index + 1]
        before = state.base_windows[-(self._n - len(recent)) :] if len(recent) < self._n else ()
        return self._step(flags, (*before, *recent))

    def _step(self, flags: Sequence[Flag], seen: Sequence[Window]) -> tuple[Flag, ...]:
        """The flags after the last window of `seen`."""
        recent = self._without_pause(seen)
        standing = {(flag.category, flag.action): flag for flag in flags}
        after = []
        for category in (*UNSAFE, ANY):
            for action in _RAISED:
                flag = standing.get((category, action))
                ratio = 1.0 if flag is None else self._policy.streams.leave_ratio
                reached = [window for window in recent if self._reaches(window, category, action, ratio)]
                if len(reached) >= self._k:
                    after.append(flag or Flag(category=category, action=action, since_ms=reached[0].start_ms))
        return tuple(after)

    def _without_pause(self, seen: Sequence[Window]) -> Sequence[Window]:
        """The windows after the last pause that is long enough to forget what came before."""
        longest_ms = self._policy.streams.reset_after_s * 1000
        for index in range(len(seen) - 1, 0, -1):
            before, window = seen[index - 1], seen[index]
            if window.start_ms - (before.start_ms + before.duration_ms) > longest_ms:
                return seen[index:]
        return seen

    def _reaches(self, window: Window, category: str, action: Action, ratio: float) -> bool:
        score = window.scores.get(category)
        if score is None:
            return False
        return score >= ratio * self._policy.thresholds(category, window.language).of(action)

    def _change(self, before: StreamState, after: StreamState) -> StateChange | None:
        if before.action == after.action:
            return None
        return StateChange(
            kind="cleared" if after.action == "allow" else "flagged",
            stream_id=after.stream_id,
            action=after.action,
            previous_action=before.action,
            flags=after.flags or before.flags,
            windows=(*after.base_windows, *after.windows)[-self._n :],
            policy_version=after.policy_version,
        )


def window_of(clip: ClipResult) -> Window:
    scores = {} if clip.category_scores is None else {name: clip.category_scores[name] for name in UNSAFE}
    if clip.nsfw_score is not None:
        scores[ANY] = clip.nsfw_score
    return Window(
        start_ms=clip.start_ms,
        duration_ms=round(clip.duration_s * 1000),
        language=clip.language,
        scores={name: round(score, 4) for name, score in scores.items()},
    )
