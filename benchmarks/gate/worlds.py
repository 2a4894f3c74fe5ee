"""Decision histories that look like a platform's. All of it is generated: the figures say how the tools behave in a
world whose truth is known, and nothing about any real platform, its languages or its people.

What is modelled, because it decides whether a recall can be promised:
  authors   a few repeat offenders make much of what is bad; an author's posts score alike (the shift of one author's
            logits has a standard deviation of 1), so they are no independent witnesses
  scores    of good and bad posts overlap; languages and types shift them; they are no calibrated probabilities
  labels    a person misses 4 % of bad posts and finds 1 in 1 000 good ones bad
  views     bad posts spread somewhat faster; times to a milestone are log-normal
  drift     in its own worlds: from `drift_from_day` on, bad posts score lower
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deployments.policy.policy import UNSAFE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Times = NDArray[np.datetime64]

START = np.datetime64("2025-01-01T00:00:00", "us")
HOUR, DAY = np.timedelta64(3_600_000_000, "us"), np.timedelta64(86_400_000_000, "us")
HISTORY_DAYS = 180


@dataclass(frozen=True)
class World:
    """Its parameters. Shifts are of logits."""

    languages: dict[str, tuple[float, float]] = field(  # share of authors, shift of scores
        default_factory=lambda: {"hi": (0.45, 0.0), "ta": (0.25, -0.3), "bn": (0.2, 0.2), "ml": (0.1, -0.5)}
    )
    content_types: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"video": (0.6, 0.0), "image": (0.3, 0.3), "audio": (0.1, -0.4)}
    )
    posts_per_author: float = 6.0  # median; log-normal, sigma 1
    most_posts: int = 300
    offenders: float = 0.04  # share of authors, of whose posts 2 in 7 are bad; of the others' 1 in 100
    author_sd: float = 1.0
    bad_mean: float = 1.2
    good_mean: float = -2.3
    score_sd: float = 1.3
    missed_by_people: float = 0.04
    invented_by_people: float = 0.001
    days: int = 360
    drift: float = 0.0  # how much lower bad posts score in the end
    drift_from_day: int = 240


@dataclass(frozen=True, eq=False)
class Authors:
    posts: Ints  # (n,)
    bad_rate: Floats
    shift: Floats
    language: Ints


def draw_authors(world: World, n: int, rng: np.random.Generator) -> Authors:
    posts = np.ceil(rng.lognormal(np.log(world.posts_per_author), 1.0, n)).clip(1, world.most_posts).astype(np.int64)
    offends = rng.random(n) < world.offenders
    rate = np.where(offends, rng.beta(2, 5, n), rng.beta(0.3, 29.7, n))
    shares = np.array([share for share, _ in world.languages.values()])
    return Authors(posts, rate, rng.normal(0, world.author_sd, n), rng.choice(len(shares), n, p=shares / shares.sum()))


@dataclass(frozen=True, eq=False)
class Posts:
    """n posts of a world, before anyone looks at them."""

    author: Ints
    language: Ints
    content_type: Ints
    day: Floats  # of creation
    bad: NDArray[np.bool_]  # the truth
    outcome: NDArray[np.bool_]  # what a person says
    score: Floats


def draw_posts(world: World, authors: Authors, rng: np.random.Generator) -> Posts:
    author = np.repeat(np.arange(len(authors.posts)), authors.posts)
    n = len(author)
    shares = np.array([share for share, _ in world.content_types.values()])
    content_type = rng.choice(len(shares), n, p=shares / shares.sum())
    day = rng.random(n) * world.days
    bad = rng.random(n) < authors.bad_rate[author]
    outcome = np.where(bad, rng.random(n) >= world.missed_by_people, rng.random(n) < world.invented_by_people)
    by_language = np.array([shift for _, shift in world.languages.values()])
    by_type = np.array([shift for _, shift in world.content_types.values()])
    drifted = np.where(bad & (day >= world.drift_from_day), world.drift, 0.0)
    mean = np.where(bad, world.bad_mean, world.good_mean) - drifted
    logit = mean + by_language[authors.language[author]] + by_type[content_type] + authors.shift[author]
    score = 1 / (1 + np.exp(-(logit + rng.normal(0, world.score_sd, n))))
    return Posts(author, authors.language[author], content_type, day, bad, outcome, score)


def history(world: World, authors: int, seed: int, second_net: bool = True) -> pa.Table:
    """A table of decisions (deployments.review_gate.table): every post at 1 000 views, some again at 2 000.

    Everything is judged, as before there was a gate. An author's history holds what had happened at `reached_at`.
    """
    rng = np.random.default_rng(seed)
    posts = draw_posts(world, draw_authors(world, authors, rng), rng)
    n = len(posts.score)
    created = START + (posts.day * 86_400e6).astype("timedelta64[us]")
    views_per_hour = rng.lognormal(np.where(posts.bad, 3.6, 3.2), 1.2)
    reached = created + ((1000 / views_per_hour) * 3_600e6).clip(60e6, 60 * 86_400e6).astype("timedelta64[us]")
    shares = rng.dirichlet(np.full(len(UNSAFE), 0.3), n)
    columns = {
        "post_id": np.char.add("p", np.arange(n).astype(str)),
        "author_id": np.char.add("a", posts.author.astype(str)),
        "language": np.array(list(world.languages))[posts.language],
        "content_type": np.array(list(world.content_types))[posts.content_type],
        "created_at": created,
        "reached_at": reached,
        "milestone": np.full(n, 1000),
        "views": 1000 + rng.integers(0, 50, n),
        "score": posts.score,
        "outcome": posts.outcome,
        **{name: posts.score * shares[:, place] for place, name in enumerate(UNSAFE)},
    }
    columns |= author_history(posts.author, created, reached, posts.outcome, reached)
    if second_net:
        columns = _with_second(columns, posts, created, reached, rng.random(n) < 0.4)
    return pa.table({name: pa.array(values, _kind(name)) for name, values in columns.items()})


def author_history(
    author: Ints, created: Times, judged: Times, outcome: NDArray[np.bool_], at: Times, whose: Ints | None = None
) -> dict[str, Floats]:
    """Posts of the author created, and discards made, in the 180 days before each moment of `at`; itself left out."""
    whose = author if whose is None else whose
    posted = _counted(author, created, whose, at)
    discarded = _counted(author[outcome], judged[outcome], whose, at)
    return {"author_posts": np.maximum(posted - 1, 0).astype(float), "author_discards": discarded.astype(float)}


def _counted(author: Ints, times: Times, whose: Ints, at: Times) -> Ints:
    """How many of `times` of the same author lie in [at - 180 days, at)."""
    span = 10**15  # microseconds: 31 years, more than any history

    def keys(authors: Ints, moments: Times) -> Ints:
        return authors * span + (moments - START).astype(np.int64) + span // 2

    ordered = np.sort(keys(author, times))
    before, first = keys(whose, at), keys(whose, at - HISTORY_DAYS * DAY)
    return np.searchsorted(ordered, before, side="left") - np.searchsorted(ordered, first, side="left")


def _with_second(
    columns: dict[str, NDArray[np.generic]], posts: Posts, created: Times, reached: Times, goes_on: NDArray[np.bool_]
) -> dict[str, NDArray[np.generic]]:
    """The posts that go on to 2 000 views, once more, about as long after the first thousand as that took."""
    rows = np.flatnonzero(goes_on)
    again = {name: values[rows] for name, values in columns.items()}
    at = reached[rows] + (reached[rows] - created[rows])
    again |= {"milestone": np.full(len(rows), 2000), "views": again["views"] + 1000, "reached_at": at}
    found = author_history(posts.author, created, reached, posts.outcome, at, posts.author[rows])
    own = posts.outcome[rows]  # what was judged at 1 000 views is this very post: not its author's past
    again |= found | {"author_discards": np.maximum(found["author_discards"] - own, 0)}
    return {name: np.concatenate([values, again[name]]) for name, values in columns.items()}


def _kind(name: str) -> pa.DataType | None:
    return pa.timestamp("us", "UTC") if name.endswith("_at") else None
