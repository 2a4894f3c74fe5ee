"""How many reviews does the score alone save, on the months after the calibration? And what drift does to it.

Split by time, never at random: calibrated on what reached its milestone before, judged on what came after.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.gate.worlds import DAY, START, World, history
from benchmarks.report import Row
from deployments.review_gate.artefact import Calibration, CalibrationSettings
from deployments.review_gate.calibration import calibrate
from deployments.review_gate.compare import Saved, compare
from deployments.review_gate.drift import drift
from deployments.review_gate.strata import ALL
from deployments.review_gate.table import DecisionTable, from_arrow

CALIBRATED_DAYS = 240
AUTHORS, QUICK_AUTHORS = 60_000, 15_000


def generated(quick: bool, world: World | None = None) -> DecisionTable:
    return from_arrow(history(world or World(), QUICK_AUTHORS if quick else AUTHORS, seed=0))


def rows(table: DecisionTable, calibration: Calibration, quick: bool) -> list[Row]:
    """`table`: a history without drift; `calibration`: of its first CALIBRATED_DAYS."""
    _, after = spans(table)
    drifted = spans(generated(quick, replace(World(), drift=1.0, drift_from_day=CALIBRATED_DAYS)))[1]
    alone, later = _saved(after, calibration), _saved(drifted, calibration)
    score = next(d for d in drift(calibration.histograms, after) if (d.language, d.category) == (ALL, "score"))
    shifted = next(d for d in drift(calibration.histograms, drifted) if (d.language, d.category) == (ALL, "score"))
    posts = f"share of {len(after):,} later decisions"
    return [
        Row("review_volume_saved_score_only", alone.first_net.value, posts),
        Row("review_volume_saved_score_only_low", alone.first_net.low, "95 % interval over authors"),
        Row("review_volume_saved_score_only_high", alone.first_net.high, "95 % interval over authors"),
        Row("review_volume_saved_score_only_both_nets", alone.both_nets.value, "share never reviewed"),
        Row("recall_score_only", alone.first_recall.value, "of the first net, target 0.95"),
        Row("recall_score_only_both_nets", alone.both_recall.value, "caught by one of the nets"),
        Row("recall_score_only_drift", later.first_recall.value, "after bad posts score 1 logit lower"),
        Row("psi_without_drift", score.psi, f"all scores, noise below {score.noise:.4f}"),
        Row("psi_drift", shifted.psi, "all scores: few are bad, so PSI hardly sees what recall loses"),
    ]


def calibrated(table: DecisionTable) -> Calibration:
    return calibrate(spans(table)[0], CalibrationSettings(target=0.95, confidence=0.95))


def spans(table: DecisionTable) -> tuple[DecisionTable, DecisionTable]:
    """Before and after; the posts of the second span were created in it."""
    cut = START + CALIBRATED_DAYS * DAY
    return table.select(table.reached_at < cut), table.select(table.created_at >= cut)


def _saved(table: DecisionTable, calibration: Calibration) -> Saved:
    side = (table, calibration)
    return compare(side, side, resamples=300).score_only
