"""What the tree looks at: one definition, for the rows of a table in training and for posts at the gate.

    GateInput ... -> facts_of --------.
                                       >-- Facts (a column each) -> matrix(facts, levels) -> (n, FEATURES) float64
    DecisionTable -> facts_of_table --'

What is not known is NaN, or a level of its own, never 0: an author without history is not an author without discards.
The score's logit is no column: a tree splits by order alone. It stands beside the trees, in a line (trees.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deployments.policy.policy import UNSAFE
from deployments.review_gate.values import AuthorHistory, GateInput
from deployments.runtime.values import ContentType

if TYPE_CHECKING:
    from deployments.review_gate.table import DecisionTable

Floats = NDArray[np.float64]

NUMBERS = (
    "score",
    *UNSAFE,
    "author_posts",
    "author_discards",
    "author_discard_rate",
    "age_h",
    "views_per_hour",
    "milestone",
)
CLASSES = ("author_history", "language", "content_type")  # categorical: the number is a level, not an amount
FEATURES = (*NUMBERS, *CLASSES)
FEATURES_VERSION = 1  # rises with the definition of any of them: a tree trained on another is refused
HISTORY_LEVELS = ("ok", "stale", "missing")

RATE_DISCARDS, RATE_POSTS = 1.0, 20.0
"""Smoothing of the discard rate: every author starts with one discard in twenty posts."""

_UNKNOWN, _OTHER, _FIRST = 0, 1, 2  # codes of a level that is absent, rare, and of the first that has its own
_SHORTEST_AGE_H = 1 / 60  # as in GateInput.age_h


@dataclass(frozen=True, eq=False)
class Facts:
    """Raw columns of n decisions, all of length n. Times are UTC without a zone, as numpy keeps them."""

    score: Floats
    categories: Floats  # (n, 6), NaN where not known
    author_posts: Floats  # NaN where not known
    author_discards: Floats
    history: NDArray[Any]  # of HISTORY_LEVELS
    created_at: NDArray[np.datetime64]  # datetime64[us]
    reached_at: NDArray[np.datetime64]
    views: Floats
    milestone: Floats
    language: NDArray[Any]  # BCP-47, None or empty where not known
    content_type: NDArray[Any]

    def __len__(self) -> int:
        return len(self.score)

    @property
    def age_h(self) -> Floats:
        """As GateInput.age_h."""
        return np.maximum((self.reached_at - self.created_at).astype(np.int64) / 1e6 / 3600, _SHORTEST_AGE_H)

    def take(self, rows: NDArray[Any]) -> Facts:
        """The decisions of a mask or of indices."""
        return Facts(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Levels:
    """The categories a model has seen; what it has not seen is `other`."""

    languages: tuple[str, ...]  # lower case
    content_types: tuple[str, ...] = tuple(ContentType)

    def language_code(self, language: str | None) -> int:
        """The longest prefix that has a level (RFC 4647, lookup)."""
        if not language:
            return _UNKNOWN
        known = (self.languages.index(tag) for tag in shorter_and_shorter(language) if tag in self.languages)
        return next((_FIRST + code for code in known), _OTHER)

    def content_type_code(self, content_type: str | None) -> int:
        if not content_type:
            return _UNKNOWN
        return _FIRST + self.content_types.index(content_type) if content_type in self.content_types else _OTHER


def commonest_languages(languages: Iterable[str | None], *, at_least: int, at_most: int = 64) -> tuple[str, ...]:
    """Those with enough rows to learn from; a rare variety counts for its prefix (`hi-Latn` for `hi`) as well."""
    counts: dict[str, int] = {}
    for tag, n in Counter(languages).items():
        for prefix in shorter_and_shorter(tag or ""):
            counts[prefix] = counts.get(prefix, 0) + n
    frequent = sorted((tag for tag, n in counts.items() if n >= at_least), key=lambda tag: (-counts[tag], tag))
    return tuple(sorted(frequent[:at_most]))


def shorter_and_shorter(language: str) -> Iterator[str]:
    """`hi-Latn-IN` -> hi-latn-in, hi-latn, hi; an extension's singleton goes with what follows it."""
    subtags = language.lower().split("-") if language else []
    while subtags:
        yield "-".join(subtags)
        subtags.pop()
        if subtags and len(subtags[-1]) == 1:
            subtags.pop()


def facts_of(posts: Sequence[GateInput]) -> Facts:
    histories = [post.history for post in posts]
    return Facts(
        score=_floats(post.nsfw_score for post in posts),
        categories=_floats(post.category_scores.get(name, np.nan) for post in posts for name in UNSAFE).reshape(-1, 6),
        author_posts=_floats(_count(history, history.posts) for history in histories),
        author_discards=_floats(_count(history, history.discards) for history in histories),
        history=_objects([history.status for history in histories]),
        created_at=_times([post.created_at for post in posts]),
        reached_at=_times([post.reached_at for post in posts]),
        views=_floats(post.views for post in posts),
        milestone=_floats(post.milestone for post in posts),
        language=_objects([post.language for post in posts]),
        content_type=_objects([post.content_type for post in posts]),
    )


def facts_of_table(table: DecisionTable) -> Facts:
    """A table tells of no stale histories: its counts are those of the moment, or null."""
    unknown = np.full(len(table), np.nan)
    posts = unknown if table.author_posts is None else table.author_posts
    discards = unknown if table.author_discards is None else table.author_discards
    missing = np.isnan(posts) | np.isnan(discards)
    return Facts(
        score=table.scores,
        categories=np.column_stack([table.category_scores.get(name, unknown) for name in UNSAFE]),
        author_posts=np.where(missing, np.nan, posts),
        author_discards=np.where(missing, np.nan, discards),
        history=np.where(missing, "missing", "ok").astype(object),
        created_at=table.created_at,
        reached_at=table.reached_at,
        views=table.views.astype(np.float64),
        milestone=table.milestones.astype(np.float64),
        language=table.languages.values(),
        content_type=table.content_types.values(),
    )


def matrix(facts: Facts, levels: Levels) -> Floats:
    """(n, len(FEATURES)), columns in the order of FEATURES."""
    age_h = facts.age_h
    rate = (facts.author_discards + RATE_DISCARDS) / (facts.author_posts + RATE_POSTS)
    columns = [
        facts.score,
        *facts.categories.T,
        facts.author_posts,
        facts.author_discards,
        rate,
        age_h,
        np.log10(facts.views / age_h + 1),
        facts.milestone,
        _codes(facts.history, HISTORY_LEVELS.index),
        _codes(facts.language, levels.language_code),
        _codes(facts.content_type, levels.content_type_code),
    ]
    return np.column_stack(columns).astype(np.float64, copy=False)


def naive_utc(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)


def _count(history: AuthorHistory, count: int | None) -> float:
    return np.nan if history.status == "missing" or count is None else count


def _codes(values: NDArray[Any], code: Callable[[Any], int]) -> Floats:
    seen: dict[Any, int] = {}
    for value in values:
        if value not in seen:
            seen[value] = code(value)
    return np.array([seen[value] for value in values], dtype=np.float64)


def _floats(values: Iterable[float]) -> Floats:
    return np.fromiter(values, dtype=np.float64)


def _objects(values: Sequence[str | None]) -> NDArray[Any]:
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


def _times(times: Sequence[datetime]) -> NDArray[np.datetime64]:
    return np.array([naive_utc(time) for time in times], dtype="datetime64[us]")
