"""The same tools on labels that nobody here made.

Phishing websites (river's copy of the UCI set: 1 250 sites, 548 phishing) and breast tumours (scikit-learn's copy of
the UCI set: 569, 212 malignant). The tables are small, so many random splits: a third trains a logistic regression
whose probability is the score, a third calibrates (independent rows: Clopper-Pearson), a third tests.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.gate.worlds import START, Floats
from benchmarks.report import Row, against
from deployments.review_gate.artefact import CalibrationSettings
from deployments.review_gate.calibration import calibrate
from deployments.review_gate.table import from_arrow

SETTINGS = CalibrationSettings(target=0.95, confidence=0.95)


@dataclass(frozen=True, eq=False)
class Labelled:
    name: str
    features: Floats
    bad: NDArray[np.bool_]


def phishing() -> Labelled:
    path = metadata.distribution("river").locate_file("river/datasets/phishing.csv.gz")
    with gzip.open(str(path), "rt", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    values = np.array(rows, dtype=np.float64)
    return Labelled("phishing", values[:, :-1], values[:, -1] == 1)


def tumours() -> Labelled:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return Labelled("breast_cancer", data.data, data.target == 0)


def rows(quick: bool) -> list[Row]:
    return [row for data in (phishing(), tumours()) for row in _rows(data, 20 if quick else 200)]


def _rows(data: Labelled, splits: int) -> list[Row]:
    found = np.array([split(data, seed) for seed in range(splits)])
    claimed = found[~np.isnan(found[:, 0])]
    recall, saved, best = claimed.mean(axis=0) if len(claimed) else (np.nan,) * 3
    return [
        Row(f"real_{data.name}_thresholds_given", len(claimed) / splits, f"share of {splits} splits, others refused"),
        against(f"real_{data.name}_test_recall", recall, "mean on rows never seen (baseline: target)", SETTINGS.target),
        Row(
            f"real_{data.name}_test_recall_held",
            float((claimed[:, 0] >= 0.95).mean()),
            "share of splits, noisy: few rows",
        ),
        against(f"real_{data.name}_volume_saved", saved, "share (baseline: best that 0.95 allows there)", best),
    ]


def split(data: Labelled, seed: int) -> tuple[float, float, float]:
    """(recall, volume saved, volume that a threshold chosen on the test rows themselves would save); NaN: refused."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    order = np.random.default_rng(seed).permutation(len(data.bad))
    train, held, test = np.array_split(order, 3)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    scores = model.fit(data.features[train], data.bad[train]).predict_proba(data.features)[:, 1]
    if data.bad[held].sum() < 59:
        return np.nan, np.nan, np.nan
    threshold = calibrate(from_arrow(_decisions(scores[held], data.bad[held])), SETTINGS).strata[0].threshold
    assert threshold is not None
    bad = np.sort(scores[test][data.bad[test]])
    best = bad[int(np.floor(0.05 * len(bad)))]
    return (
        float((bad >= threshold).mean()),
        float((scores[test] < threshold).mean()),
        float((scores[test] < best).mean()),
    )


def _decisions(scores: Floats, bad: NDArray[np.bool_]) -> pa.Table:
    """As posts of one stratum; of authors and times these data know nothing."""
    n = len(scores)
    names, times = [str(row) for row in range(n)], pa.array(np.full(n, START), pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "post_id": names,
            "author_id": names,
            "language": ["und"] * n,
            "content_type": ["text"] * n,
            "created_at": times,
            "reached_at": times,
            "milestone": [1000] * n,
            "views": [1000] * n,
            "score": scores,
            "outcome": bad,
        }
    )
