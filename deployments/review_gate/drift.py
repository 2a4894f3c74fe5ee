"""Have the scores moved since the calibration? The population stability index, by language and category.

    PSI = sum over bins of (a_i - e_i) ln(a_i / e_i)      a: share of today's scores in bin i, e: of calibration's

(Siddiqi, "Credit risk scorecards", 2006; the symmetrised Kullback-Leibler divergence of Jeffreys, 1946.) Bins are the
calibration scores' deciles. The usual reading: below 0.1 stable, below 0.25 moved, from there on shifted.

Without any drift PSI is not 0 but about chi2(bins - 1) * (1/n + 1/m) (Yurdakul, "Statistical properties of population
stability index", 2018): where its 95 % point exceeds 0.1 there are too few posts to say anything, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.stats import chi2  # type: ignore[import-untyped]

from deployments.review_gate.strata import ALL, language_of
from deployments.review_gate.table import DecisionTable, Floats

Reading = Literal["stable", "moved", "shifted", "too few"]
MOVED, SHIFTED, BINS = 0.1, 0.25, 10
SCORE = "score"
FEWEST = 50
"""Languages with fewer scores than this get no histogram of their own."""


class Histogram(BaseModel):
    """Scores of one language (`*`: all) and category (`score`: what the threshold is held against) at calibration."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    language: str
    category: str
    edges: tuple[float, ...]  # inner ones, rising: len(shares) - 1
    shares: tuple[float, ...] = Field(min_length=1)
    n: float = Field(gt=0, allow_inf_nan=False)  # scores; with weights their effective number (Kish)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.edges) != len(self.shares) - 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must rise, one fewer than shares")
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError("shares must add up to 1")
        return self


@dataclass(frozen=True)
class Drift:
    language: str
    category: str
    psi: float
    noise: float  # what PSI stays below in 95 of 100 samples of this size without any drift
    n: float  # today's scores
    reading: Reading


def histogram(language: str, category: str, scores: Floats, weights: Floats) -> Histogram:
    """Bins of about equal weight; equal scores never stand in two bins, so there may be fewer than ten."""
    order = np.argsort(scores, kind="stable")
    cumulative = np.cumsum(weights[order])
    places = np.searchsorted(cumulative, np.arange(1, BINS) / BINS * cumulative[-1])
    edges = np.unique(scores[order][np.minimum(places, len(scores) - 1)])
    edges = edges[edges < scores.max()]
    shares = _counts(scores, weights, edges) / weights.sum()
    return Histogram(
        language=language,
        category=category,
        edges=tuple(edges.tolist()),
        shares=tuple(shares.tolist()),
        n=_effective(weights),
    )


def histograms(table: DecisionTable) -> tuple[Histogram, ...]:
    """Of every language with enough scores, and of all together: the score and each category that the table has."""
    return tuple(
        histogram(language, category, scores[known], weights[known])
        for language, category, scores, weights in _parts(table)
        if (known := ~np.isnan(scores)).sum() >= FEWEST or (language == ALL and known.any())
    )


def drift(reference: tuple[Histogram, ...], table: DecisionTable) -> list[Drift]:
    """Of each histogram that today's table has scores for. The table needs no outcomes that mean anything."""
    today = {(language, category): (s, w) for language, category, s, w in _parts(table)}
    found = []
    for histogram in reference:
        scores, weights = today.get((histogram.language, histogram.category), (np.empty(0), np.empty(0)))
        known = ~np.isnan(scores)
        if known.any():
            found.append(compare(histogram, scores[known], weights[known]))
    return found


def compare(reference: Histogram, scores: Floats, weights: Floats | None = None) -> Drift:
    """`scores`: today's, at least one."""
    weights = np.ones(len(scores)) if weights is None else weights
    n, bins = _effective(weights), len(reference.shares)
    counts = _counts(scores, weights, np.asarray(reference.edges)) / weights.sum()
    value = psi(_smoothed(np.asarray(reference.shares), reference.n), _smoothed(counts, n))
    noise = float(chi2.ppf(0.95, bins - 1)) * (1 / n + 1 / reference.n) if bins > 1 else 0.0
    reading: Reading = "stable" if value < MOVED else "moved" if value < SHIFTED else "shifted"
    return Drift(reference.language, reference.category, value, noise, n, "too few" if noise > MOVED else reading)


def psi(expected: Floats, actual: Floats) -> float:
    """Of two distributions without empty bins."""
    return float(((actual - expected) * np.log(actual / expected)).sum())


def as_metrics(found: list[Drift]) -> Mapping[tuple[str, str], float]:
    """(language, category) -> PSI, of those with enough posts to say something."""
    return {(d.language, d.category): d.psi for d in found if d.reading != "too few"}


def _parts(table: DecisionTable) -> list[tuple[str, str, Floats, Floats]]:
    tags = np.array([language_of(name) for name in table.languages.names], dtype=str)
    names, merged = np.unique(tags, return_inverse=True)
    languages = merged[table.languages.codes]
    columns = {SCORE: table.scores, **table.category_scores}
    parts = [(ALL, category, scores, table.weights) for category, scores in columns.items()]
    for code, name in enumerate(names):
        rows = languages == code
        parts += [(str(name), category, scores[rows], table.weights[rows]) for category, scores in columns.items()]
    return parts


def _counts(scores: Floats, weights: Floats, edges: NDArray[np.float64]) -> Floats:
    """Weight in each bin; a bin holds its upper edge."""
    return np.bincount(np.searchsorted(edges, scores, side="left"), weights, minlength=len(edges) + 1).astype(
        np.float64
    )


def _smoothed(shares: Floats, n: float) -> Floats:
    """Half a score more in each bin (Jeffreys' prior), so that an empty one gives no infinity."""
    return np.asarray((shares * n + 0.5) / (n + 0.5 * len(shares)), dtype=np.float64)


def _effective(weights: Floats) -> float:
    return float(weights.sum() ** 2 / (weights**2).sum())
