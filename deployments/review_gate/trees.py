"""Gradient-boosted trees over the gate's features: facts -> probability that a moderator discards the post, and why.

    log-odds = base (a straight line in the score's logit) + trees (what the line does not know)
    probability = Platt map of it: sigmoid(slope x log-odds + intercept), slope above 0

The line is there for the low end, where thresholds of a high recall lie: trees alone give all that is harmless the same
number, so a threshold could only take or leave it whole. The Platt map makes probabilities and keeps the order, where
isotonic steps would tie what the model tells apart. LightGBM's own text format, never a pickle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deployments.policy.policy import UNSAFE
from deployments.review_gate.features import FEATURES, Facts, Floats, Levels, matrix
from deployments.review_gate.values import Contribution
from deployments.runtime.errors import WrongWeights

if TYPE_CHECKING:
    from lightgbm import Booster

THREADS = 1
"""One row takes tens of microseconds: waking a second thread costs more than it gains."""

_NEAREST = 1e-6  # to 0 and 1, for a logit

AUTHOR = ("author_posts", "author_discards", "author_discard_rate", "author_history")
GROUPS: dict[str, tuple[str, ...]] = {"score": ("score",)}
"""What is told as one reason: contributions add up, and four numbers of one history are one fact to a moderator."""
GROUPS |= {name: (name,) for name in UNSAFE}
GROUPS |= {"author_history": AUTHOR}
GROUPS |= {name: (name,) for name in FEATURES if name not in {"score", *UNSAFE, *AUTHOR}}


@dataclass(frozen=True)
class Platt:
    """Log-odds of the trees -> probability (Platt 1999)."""

    slope: float
    intercept: float

    def __call__(self, log_odds: Floats) -> Floats:
        return sigmoid(self.slope * log_odds + self.intercept)


@dataclass(frozen=True)
class Base:
    """The score's part: slope x (logit(score) - centre) + intercept."""

    slope: float  # at least 0
    intercept: float
    centre: float  # mean logit of the training span: the score that neither raises nor lowers

    def of_score(self, score: Floats) -> Floats:
        return self.slope * (logit(score) - self.centre)

    def __call__(self, score: Floats) -> Floats:
        return self.of_score(score) + self.intercept


class Trees:
    """A Scorer of the gate. Raises WrongWeights where the text is no model of these features."""

    def __init__(self, text: str, levels: Levels, base: Base, platt: Platt, *, name: str, version: str) -> None:
        self.name, self.version = name, version
        self.levels, self.base, self.platt = levels, base, platt
        self._booster = _booster(text)
        self._groups = [(name, [FEATURES.index(f) for f in features]) for name, features in GROUPS.items()]

    def scores(self, facts: Facts) -> Floats:
        """(n,) probabilities."""
        return self.platt(self.base(facts.score) + self._predict(facts))

    def contributions(self, facts: Facts) -> list[list[Contribution]]:
        """SHAP values of the trees (Lundberg 2018) and of the line, scaled by the Platt slope: with the same constant
        for every post, they add up to the log-odds of `scores`."""
        shap = self._predict(facts, pred_contrib=True)
        shap[:, FEATURES.index("score")] += self.base.of_score(facts.score)
        shap *= self.platt.slope
        grouped = np.column_stack([shap[:, columns].sum(axis=1) for _, columns in self._groups])
        order = np.argsort(-np.abs(grouped), axis=1, kind="stable")
        return [
            [
                Contribution(self._groups[i][0], _value(facts, row, self._groups[i][0]), float(grouped[row, i]))
                for i in order[row]
                if grouped[row, i] != 0
            ]
            for row in range(len(facts))
        ]

    def gains(self) -> dict[str, float]:
        """Each feature's share of what all splits gained."""
        gain = self._booster.feature_importance("gain")
        return dict(zip(FEATURES, (gain / max(gain.sum(), 1e-12)).tolist(), strict=True))

    def _predict(self, facts: Facts, *, pred_contrib: bool = False) -> Floats:
        features = matrix(facts, self.levels)
        if not len(features):
            return np.zeros((0, len(FEATURES) + 1) if pred_contrib else 0)
        given = self._booster.predict(features, raw_score=True, pred_contrib=pred_contrib, num_threads=THREADS)
        return np.asarray(given, dtype=np.float64)


def sigmoid(log_odds: Floats) -> Floats:
    result: Floats = 0.5 * (1 + np.tanh(0.5 * log_odds))  # no overflow at either end
    return result


def logit(probability: Floats) -> Floats:
    p = np.clip(probability, _NEAREST, 1 - _NEAREST)
    result: Floats = np.log(p / (1 - p))
    return result


def _booster(text: str) -> Booster:
    import lightgbm  # a second or more: only where there is a tree

    try:
        booster = lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise WrongWeights("The tree's model.txt is no model that this LightGBM reads.") from error
    if tuple(booster.feature_name()) != FEATURES:
        raise WrongWeights("The tree's model.txt was trained on other features than this version of Parakh computes.")
    return booster


def _value(facts: Facts, row: int, group: str) -> float | str | None:
    """What a reader would call the value of a group."""
    match group:
        case "score":
            return float(facts.score[row])
        case "author_history":
            return _discard_share(facts, row)
        case "language":
            return _text(facts.language[row])
        case "content_type":
            return _text(facts.content_type[row])
        case "milestone":
            return float(facts.milestone[row])
        case "age_h":
            return float(facts.age_h[row])
        case "views_per_hour":
            return float(facts.views[row] / facts.age_h[row])
    value = float(facts.categories[row, UNSAFE.index(group)])
    return None if np.isnan(value) else value


def _discard_share(facts: Facts, row: int) -> str:
    if facts.history[row] == "missing":
        return "missing"
    return f"{facts.author_discards[row]:.0f}/{facts.author_posts[row]:.0f}"


def _text(value: str | None) -> str | None:
    return str(value) if value else None
