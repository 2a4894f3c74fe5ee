"""Training the gate's tree: judged decisions in, a line in the score, boosted trees on top, and a Platt map out.

Features -> four spans of time -> line and boosting on the first, stopped by the second -> the Platt map on the third.
The fourth is for the report alone. Same table, same settings, same seed: the same bytes, because one thread sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from deployments.review_gate.features import (
    CLASSES,
    FEATURES,
    Facts,
    Floats,
    Levels,
    commonest_languages,
    facts_of_table,
    matrix,
)
from deployments.review_gate.spans import SHARES, SPANS, Span, described, split_by_time
from deployments.review_gate.table import DecisionTable
from deployments.review_gate.trees import THREADS, Base, Platt, logit, sigmoid

RISING = ("score", "author_discards", "author_discard_rate")
"""More of these, all else equal, never lowers the probability."""


class TreeSettings(BaseModel):
    """How the trees grow; the defaults suit some ten thousand decisions and more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="Of everything that is drawn.")
    shares: tuple[float, float, float, float] = Field(
        SHARES, description="Of the rows in train, validation, calibration and test, in order of time."
    )
    learning_rate: float = Field(0.05, gt=0, le=1, description="Shrinkage of each tree.")
    leaves: int = Field(15, ge=2, le=255, description="Leaves of each tree.")
    leaf_rows: int = Field(100, ge=1, description="Least rows in a leaf.")
    max_trees: int = Field(1000, ge=1, description="Trees at most.")
    patience: int = Field(50, ge=1, description="Trees without a better validation loss before boosting stops.")
    gaps: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="Share of training rows whose history is hidden, called stale, or whose categories are hidden.",
    )
    language_rows: int = Field(200, ge=1, description="Training rows a language needs to be a level of its own.")


@dataclass(frozen=True, eq=False)
class Boosted:
    """What training gives; `text` is LightGBM's own format."""

    text: str
    levels: Levels
    base: Base
    platt: Platt
    trees: int
    span: NDArray[np.int64]  # of each row of the table, index into SPANS or -1
    spans: Mapping[str, Span]


def boost(table: DecisionTable, settings: TreeSettings, progress: Callable[[int, int], None] | None = None) -> Boosted:
    """Raises InvalidInput where a span lacks one of the two outcomes. `progress`: trees so far, trees at most."""
    facts = facts_of_table(table)
    span = split_by_time(table.reached_at, table.post_ids, settings.shares)
    spans = described(span, table.reached_at, table.post_ids, table.outcomes)
    rows = [np.flatnonzero(span == index) for index in range(len(SPANS))]
    levels = Levels(commonest_languages(facts.take(rows[0]).language, at_least=settings.language_rows))
    base = _fit_base(table.select(rows[0]))
    features = matrix(facts, levels)
    learned = matrix(with_gaps(facts, settings.gaps, settings.seed), levels)
    booster = _fit(table, learned, base(table.scores), rows[0], rows[1], settings, progress)
    text = booster.model_to_string(num_iteration=booster.best_iteration)
    held = table.select(rows[2])
    boosted = booster.predict(
        features[rows[2]],
        raw_score=True,
        num_iteration=booster.best_iteration,
        num_threads=THREADS,
    )
    platt = fit_platt(base(held.scores) + boosted, held.outcomes, held.weights)
    return Boosted(text, levels, base, platt, booster.best_iteration, span, spans)


def fit_platt(log_odds: Floats, outcome: NDArray[np.bool_], weight: Floats) -> Platt:
    """A slope at or below 0 would turn the order around: it can only come of noise, and then the identity is kept."""
    slope, intercept = _logistic(log_odds, outcome, weight)
    return Platt(slope, intercept) if slope > 0 else Platt(1.0, 0.0)


def with_gaps(facts: Facts, share: float, seed: int) -> Facts:
    """What the gate will meet when a history is late or a category unscored, though no table may hold a case of it.

    A tree that never saw a value missing reads it as 0, which would make every unknown author an innocent one.
    """
    drawn = np.random.default_rng(seed).random((2, len(facts)))
    hidden, stale, unscored = drawn[0] < share, drawn[0] > 1 - share, drawn[1] < share
    return replace(
        facts,
        author_posts=np.where(hidden, np.nan, facts.author_posts),
        author_discards=np.where(hidden, np.nan, facts.author_discards),
        history=np.where(hidden, "missing", np.where(stale & (facts.history == "ok"), "stale", facts.history)),
        categories=np.where(unscored[:, None], np.nan, facts.categories),
    )


def _fit_base(table: DecisionTable) -> Base:
    z = logit(table.scores)
    centre = float(np.average(z, weights=table.weights))
    slope, intercept = _logistic(z - centre, table.outcomes, table.weights)
    if slope > 0:
        return Base(slope, intercept, centre)
    share = np.array([np.average(table.outcomes, weights=table.weights)])
    return Base(0.0, float(logit(share)[0]), centre)  # the score says nothing: everything is left to the trees


def _logistic(inputs: Floats, outcome: NDArray[np.bool_], weight: Floats, rounds: int = 50) -> tuple[float, float]:
    """Slope and intercept of weighted maximum likelihood, by Newton's method, with Platt's softened targets (1999) so
    that it has an end where the two outcomes do not overlap."""
    good, bad = float(weight[~outcome].sum()), float(weight[outcome].sum())
    target = np.where(outcome, (bad + 1) / (bad + 2), 1 / (good + 2))
    design, beta = np.column_stack([inputs, np.ones_like(inputs)]), np.array([0.0, np.log((bad + 1) / (good + 1))])
    for _ in range(rounds):
        p = sigmoid(design @ beta)
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, design.T @ (weight * (target - p)))
        beta = beta + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return float(beta[0]), float(beta[1])


def _fit(
    table: DecisionTable,
    features: Floats,
    base: Floats,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    settings: TreeSettings,
    progress: Callable[[int, int], None] | None,
) -> Any:
    import lightgbm

    def dataset(rows: NDArray[np.int64], reference: Any = None) -> Any:
        return lightgbm.Dataset(
            features[rows],
            table.outcomes[rows].astype(np.float64),
            weight=table.weights[rows],
            init_score=base[rows],
            feature_name=list(FEATURES),
            categorical_feature=list(CLASSES),
            reference=reference,
            params=parameters,
        )

    parameters = _parameters(settings)
    told = [] if progress is None else [lambda step: progress(step.iteration + 1, settings.max_trees)]
    learned = dataset(train)
    return lightgbm.train(
        parameters,
        learned,
        num_boost_round=settings.max_trees,
        valid_sets=[dataset(validation, learned)],
        callbacks=[lightgbm.early_stopping(settings.patience, verbose=False), *told],
    )


def _parameters(settings: TreeSettings) -> dict[str, Any]:
    return {
        "objective": "binary",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.leaf_rows,
        "lambda_l2": 1.0,
        "monotone_constraints": [int(name in RISING) for name in FEATURES],
        "monotone_constraints_method": "intermediate",
        "seed": settings.seed,
        "num_threads": THREADS,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
