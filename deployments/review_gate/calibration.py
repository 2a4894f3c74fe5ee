"""Decisions -> thresholds: the largest in each stratum at which recall's lower bound still holds the target.

table -> by milestone -> strata (thin ones pooled) -> bound of recall (bounds.py) -> threshold -> Calibration.
Each threshold's claim stands by itself, with its own confidence; nothing is said of all of them at once.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from deployments.review_gate.artefact import Calibration, CalibrationSettings, Stratum, identity
from deployments.review_gate.bounds import (
    FEWEST_AUTHORS,
    Method,
    Positives,
    RecallBound,
    clopper_pearson_lower,
    effective_count,
    positives,
    positives_needed,
    recall_bound,
)
from deployments.review_gate.drift import histograms
from deployments.review_gate.strata import Group, group
from deployments.review_gate.table import DecisionTable
from deployments.runtime.errors import InvalidInput

SCORE, SCORE_VERSION = "score", "1"
Rows = NDArray[np.int64]


class ThinData(InvalidInput):
    """The data cannot support the claim, whatever is pooled; the message says how many bad posts it takes."""

    code = "thin_calibration_data"


def calibrate(
    table: DecisionTable,
    settings: CalibrationSettings | None = None,
    model: str = SCORE,
    model_version: str = SCORE_VERSION,
) -> Calibration:
    """`model`: whose scores the table holds. Raises ThinData, or InvalidInput for a method the data rules out."""
    settings = settings or CalibrationSettings()
    if settings.method == "exact" and (table.weights != 1).any():
        raise InvalidInput("method exact needs posts that count 1 each; this table has weights.", param="method")
    strata = [
        _stratum(part, found, int(milestone), settings)
        for milestone in np.unique(table.milestones)
        for part in [table.select(table.milestones == milestone)]
        for found in group(part, lambda rows, part=part: too_thin(part, rows, settings))  # type: ignore[misc]
    ]
    if all(stratum.threshold is None for stratum in strata):
        raise ThinData(_refusal(strata, settings))
    return Calibration(
        id=identity(table.sha256, settings, model, model_version),
        model=model,
        model_version=model_version,
        data_sha256=table.sha256,
        data_from=_utc(table.reached_at.min()),
        data_to=_utc(table.reached_at.max()),
        rows=len(table),
        settings=settings,
        strata=tuple(strata),
        histograms=histograms(table),
    )


def bad_posts(table: DecisionTable, rows: Rows) -> Positives:
    bad = rows[table.outcomes[rows]]
    return positives(table.scores[bad], table.authors.codes[bad], table.weights[bad], float(table.weights.max()))


def method_for(bad: Positives, settings: CalibrationSettings) -> Method:
    if settings.method != "auto":
        return settings.method
    return "exact" if bad.independent else "bootstrap"


def bound_for(bad: Positives, settings: CalibrationSettings) -> RecallBound:
    return recall_bound(bad, settings.confidence, method_for(bad, settings), settings.resamples, settings.seed)


def too_thin(table: DecisionTable, rows: Rows, settings: CalibrationSettings) -> str | None:
    """Why these rows cannot show the target, or None."""
    bad = bad_posts(table, rows)
    needed = positives_needed(settings.target, settings.confidence)
    if bad.count < needed:
        return f"{bad.count} bad posts, {needed} needed"
    if method_for(bad, settings) == "exact":
        return None
    if bad.author_count < FEWEST_AUTHORS:
        return f"{bad.count} bad posts of {bad.author_count} authors, {FEWEST_AUTHORS} authors needed"
    worth = effective_count(bad, settings.confidence)
    if clopper_pearson_lower(worth, worth, settings.confidence) < settings.target:
        return f"{bad.count} bad posts of {bad.author_count} authors tell as much as {worth:.0f}, {needed} needed"
    return None


def _stratum(table: DecisionTable, found: Group, milestone: int, settings: CalibrationSettings) -> Stratum:
    bad = bad_posts(table, found.rows)
    reason = too_thin(table, found.rows, settings)
    weights, bound = table.weights[found.rows], bound_for(bad, settings) if bad.count else None
    threshold = bound.threshold(settings.target) if bound and reason is None else None
    at, saved = None, 0.0
    if bound is not None and threshold is not None:
        at = np.array([threshold])
        saved = float(weights[table.scores[found.rows] < threshold].sum() / weights.sum())
    return Stratum(
        milestone=milestone,
        name=found.name,
        members=found.members,
        threshold=threshold,
        recall=None if bound is None or at is None else float(bound.recall_at(at)[0]),
        recall_lower=None if bound is None or at is None else float(bound.at(at)[0]),
        method=method_for(bad, settings),
        rows=len(found.rows),
        weight=float(weights.sum()),
        saved=saved,
        positives=bad.count,
        positives_effective=bound.n if bound else 0.0,
        authors=bad.author_count,
        note="; ".join(filter(None, [found.note, f"no threshold: {reason}" if reason else ""])),
    )


def _utc(time: np.datetime64) -> datetime:
    return datetime.fromtimestamp(int(time.astype("datetime64[us]").astype(np.int64)) / 1e6, UTC)


def _refusal(strata: list[Stratum], settings: CalibrationSettings) -> str:
    needed = positives_needed(settings.target, settings.confidence)
    best = max(strata, key=lambda stratum: stratum.positives)
    return (
        f"The data cannot show a recall of {settings.target:g} at {settings.confidence:.4g} confidence: it takes at "
        f"least {needed} independent bad posts, and even pooled ({best.name}, milestone {best.milestone}) there are "
        f"{best.positives} of {best.authors} authors. {best.note.rsplit('no threshold: ', 1)[-1]}."
    )
