"""What a post at the gate must be like: numbers in their range, times with a zone and in the past."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from deployments.policy.policy import CATEGORIES
from deployments.review_gate.values import AuthorHistory, GateInput
from deployments.runtime.errors import InvalidInput

CLOCK_SKEW = timedelta(minutes=1)
"""How far another machine's clock may be ahead before its times count as the future."""


def check_input(post: GateInput, now: datetime) -> None:
    """Raises InvalidInput; its `param` names the field. Which milestones there are is the caller's to know."""
    _score("nsfw_score", post.nsfw_score)
    for name, score in post.category_scores.items():
        if name not in CATEGORIES:
            raise InvalidInput(f"category_scores: there is no category {name!r}.", param="category_scores")
        _score(f"category_scores.{name}", score)
    if post.milestone < 1:
        raise InvalidInput("milestone: must be at least 1 view.", param="milestone")
    if post.views < 0:
        raise InvalidInput("views: must not be negative.", param="views")
    if post.views < post.milestone:
        raise InvalidInput(f"views: {post.views} are below the milestone of {post.milestone}.", param="views")
    _time("created_at", post.created_at, now)
    _time("reached_at", post.reached_at, now)
    if post.reached_at < post.created_at:
        raise InvalidInput("reached_at: lies before created_at.", param="reached_at")
    _history(post.history)


def _score(field: str, value: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise InvalidInput(f"{field}: must lie in 0..1.", param=field)


def _time(field: str, time: datetime, now: datetime) -> None:
    if time.tzinfo is None or time.utcoffset() is None:
        raise InvalidInput(f"{field}: must carry a time zone.", param=field)
    if time > now + CLOCK_SKEW:
        raise InvalidInput(f"{field}: lies in the future.", param=field)


def _history(history: AuthorHistory) -> None:
    counts = (history.posts, history.discards)
    if any(count is not None and count < 0 for count in counts):
        raise InvalidInput("history: counts must not be negative.", param="history")
    if history.status != "missing" and None in counts:
        raise InvalidInput(f"history: is {history.status}, but lacks a count.", param="history")
