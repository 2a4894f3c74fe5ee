"""Does the guarantee hold? Thresholds of resampled worlds against the recall that is true of the whole population.

A population of authors is drawn once, so its recall at every threshold is known. A world is a sample of its authors,
with all their posts; `calibrate` sees that alone, strata, pooling and all. Each threshold claims that the recall of its
posts is at least 0.95, with 95 % confidence: it should be right at least that often.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.gate.worlds import START, Ints, Posts, World, draw_authors, draw_posts
from benchmarks.report import Row, against
from deployments.review_gate.artefact import CalibrationSettings
from deployments.review_gate.bounds import recall_bound
from deployments.review_gate.calibration import ThinData, bad_posts, calibrate
from deployments.review_gate.strata import cell_of
from deployments.review_gate.table import DecisionTable, Labels

TARGET, CONFIDENCE = 0.95, 0.95
POPULATION_AUTHORS = 400_000
GOOD_KEPT = 0.05
WORLD_AUTHORS = 700
"""Authors with a bad post in a world: about 1 200 bad posts, so that some cells stand alone and some are pooled."""
ALIKE, ALIKE_AUTHORS = World(author_sd=2.0, offenders=0.3, posts_per_author=10.0), 150
SKIPPED_BELOW, AUDITED = 0.15, 0.1
"""The audited world: posts below this score were skipped, and one in ten of them judged, with weight 10."""


@dataclass(frozen=True, eq=False)
class Population:
    """Authors with a bad post: all their bad posts and some of their good ones, which say nothing of recall."""

    table: DecisionTable
    first: Ints  # author -> its first row; the rows of an author stand together
    true_scores: dict[str, np.ndarray]  # cell -> scores of its bad posts, sorted

    def recall(self, cells: tuple[str, ...], threshold: float) -> float:
        scores = [self.true_scores[cell] for cell in cells if cell in self.true_scores]
        missed = sum(int(np.searchsorted(s, threshold)) for s in scores)
        return 1 - missed / sum(map(len, scores))

    def sample(self, authors: int, rng: np.random.Generator, *, one_post: bool = False) -> DecisionTable:
        """A world: authors drawn with replacement, each time as somebody new."""
        drawn = rng.integers(0, len(self.first) - 1, authors)
        counts = (self.first[1:] - self.first[:-1])[drawn]
        if one_post:  # posts at random, each as if of an author of its own
            rows = rng.choice(np.flatnonzero(self.table.outcomes), authors)
            return _as_world(self.table.select(rows), np.arange(authors))
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(self.first[drawn], counts) + within
        return _as_world(self.table.select(rows), np.repeat(np.arange(authors), counts))


def population(world: World, seed: int = 0, authors: int = POPULATION_AUTHORS) -> Population:
    rng = np.random.default_rng(seed)
    posts = draw_posts(world, draw_authors(world, authors, rng), rng)
    bad_authors = np.bincount(posts.author, posts.outcome) > 0
    rows = np.flatnonzero(posts.outcome | (bad_authors[posts.author] & (rng.random(len(posts.score)) < GOOD_KEPT)))
    table = _table(world, posts, rows)
    _, first = np.unique(posts.author[rows], return_index=True)
    cells = np.array(
        [cell_of(tag, kind) for tag, kind in zip(table.languages.values(), table.content_types.values(), strict=True)]
    )
    scores = {str(cell): np.sort(table.scores[(cells == cell) & table.outcomes]) for cell in np.unique(cells)}
    return Population(table, np.append(first, len(rows)).astype(np.int64), scores)


@dataclass
class Tally:
    """Over all thresholds of all worlds."""

    recalls: list[float] = field(default_factory=list)  # true ones
    reviewed: int = 0  # strata without a threshold: everything in them is reviewed
    refused: int = 0  # worlds too thin for any threshold

    @property
    def held(self) -> float:
        return float(np.mean(np.array(self.recalls) >= TARGET)) if self.recalls else float("nan")


def tally(
    drawn_from: Population,
    truth: Population,
    worlds: int,
    settings: CalibrationSettings,
    change: Callable[[DecisionTable, np.random.Generator], DecisionTable] | None = None,
    *,
    one_post: bool = False,
) -> Tally:
    """`truth`: the population that the thresholds are judged on."""
    result, rng = Tally(), np.random.default_rng(1)
    for world in range(worlds):
        table = drawn_from.sample(WORLD_AUTHORS, rng, one_post=one_post)
        table = change(table, rng) if change else table
        try:
            found = calibrate(table, settings.model_copy(update={"seed": world}))
        except ThinData:
            result.refused += 1
            continue
        for stratum in found.strata:
            if stratum.threshold is None:
                result.reviewed += 1
            else:
                result.recalls.append(truth.recall(stratum.members, stratum.threshold))
    return result


def rows(quick: bool) -> list[Row]:
    worlds = 250 if quick else 2000
    world = World()
    whole = population(world)
    drifted = population(replace(world, drift=1.0, drift_from_day=0))
    auto = CalibrationSettings(target=TARGET, confidence=CONFIDENCE, resamples=300)
    exact = auto.model_copy(update={"method": "exact"})
    clustered = tally(whole, whole, worlds, auto)
    naive = tally(whole, whole, worlds, exact)
    alone = tally(whole, whole, worlds, auto, one_post=True)
    audited = tally(whole, whole, worlds, auto, _audited)
    after = tally(whole, drifted, worlds, auto)
    unit = f"share of thresholds, {worlds} worlds"
    return [
        against("recall_bound_held_share", clustered.held, f"{unit} (baseline: posts as if independent)", naive.held),
        Row("recall_bound_held_share_allowed", CONFIDENCE - 2 * _standard_error(worlds), "0.95 - 2 standard errors"),
        Row("recall_bound_held_share_independent", alone.held, f"{unit}, one post an author, Clopper-Pearson"),
        Row(
            "recall_bound_held_share_audit_sample", audited.held, f"{unit}, skipped posts known by an audit of 1 in 10"
        ),
        *alike_authors(worlds),
        Row("recall_bound_held_share_drift", after.held, f"{unit}, judged on posts that score 1 logit lower"),
        Row("thresholds_a_world_audit_sample", len(audited.recalls) / worlds, "strata and pools"),
        Row("recall_mean", float(np.mean(clustered.recalls)), "true recall, target 0.95"),
        Row("recall_mean_independent", float(np.mean(alone.recalls)), "true recall, target 0.95"),
        Row("recall_mean_drift", float(np.mean(after.recalls)), "true recall after the drift"),
        Row(
            "recall_worst_hundredth",
            float(np.quantile(clustered.recalls, 0.01)),
            "true recall, 1 threshold in 100 is below",
        ),
        Row("thresholds_a_world", len(clustered.recalls) / worlds, "strata and pools"),
        Row("strata_reviewed_whole_a_world", clustered.reviewed / worlds, "too thin for a threshold"),
    ]


def alike_authors(worlds: int) -> list[Row]:
    """One stratum of few authors whose many posts score much alike; and what each bound would hold by itself."""
    whole = population(ALIKE, authors=60_000)
    rng, held = np.random.default_rng(1), dict.fromkeys(("both", "bootstrap", "independent"), 0)
    cells = tuple(whole.true_scores)
    for world in range(worlds):
        table = whole.sample(ALIKE_AUTHORS, rng)
        bad = bad_posts(table, np.arange(len(table)))
        bound = recall_bound(bad, CONFIDENCE, "bootstrap", 300, world)
        resampled = bound.resampled[np.searchsorted(bound.grid, np.arange(bad.count))]
        chosen = {
            "both": bound.threshold(TARGET),
            "bootstrap": float(bad.scores[np.flatnonzero(resampled >= TARGET)[-1]]),
            "independent": recall_bound(bad, CONFIDENCE, "exact").threshold(TARGET),
        }
        for name, threshold in chosen.items():
            held[name] += threshold is None or whole.recall(cells, threshold) >= TARGET
    share = {name: count / worlds for name, count in held.items()}
    unit = f"share of {worlds} worlds of {ALIKE_AUTHORS} authors who post much, and alike"
    return [
        against(
            "recall_bound_held_share_alike", share["both"], f"{unit} (baseline: independent)", share["independent"]
        ),
        Row("recall_bound_held_share_alike_bootstrap_only", share["bootstrap"], f"{unit}, one bound of the two"),
    ]


def _audited(table: DecisionTable, rng: np.random.Generator) -> DecisionTable:
    skipped = table.scores < SKIPPED_BELOW
    judged = ~skipped | (rng.random(len(table)) < AUDITED)
    return replace(table, weights=np.where(skipped, 1 / AUDITED, 1.0)).select(judged)


def _standard_error(worlds: int) -> float:
    return float(np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / worlds))


def _as_world(table: DecisionTable, authors: Ints) -> DecisionTable:
    names = tuple(map(str, range(int(authors.max()) + 1)))  # codes are what counts
    return replace(table, authors=Labels(names, authors))


def _table(world: World, posts: Posts, rows: Ints) -> DecisionTable:
    """Rows of one milestone, without the checks that a table from outside gets."""
    times = START + (posts.day[rows] * 86_400e6).astype("timedelta64[us]")
    languages, kinds = (np.array(list(names)) for names in (world.languages, world.content_types))
    return DecisionTable(
        post_ids=np.arange(len(rows)),
        authors=Labels((), posts.author[rows]),
        languages=Labels(tuple(map(str, languages)), posts.language[rows]),
        content_types=Labels(tuple(map(str, kinds)), posts.content_type[rows]),
        created_at=times,
        reached_at=times,
        milestones=np.full(len(rows), 1000),
        views=np.full(len(rows), 1000),
        scores=posts.score[rows],
        outcomes=posts.outcome[rows],
        weights=np.ones(len(rows)),
        category_scores={},
        author_posts=None,
        author_discards=None,
        sha256="0" * 64,
    )
