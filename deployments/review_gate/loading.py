"""Settings -> a gate, and the card that says what it runs."""

from __future__ import annotations

from deployments.review_gate import tree_artefact
from deployments.review_gate.artefact import read_calibration
from deployments.review_gate.gate import POST_SCORE, ReviewGate
from deployments.review_gate.settings import GateSettings
from deployments.runtime.values import ModelCard

NOTE_SCORE = "holds the post's own score against calibrated thresholds; no tree"
NOTE_NOTHING = "no calibration is in force: every post is reviewed"


def load_gate(settings: GateSettings) -> tuple[ReviewGate, ModelCard]:
    """Raises MissingWeights or WrongWeights."""
    if settings.tree is not None:
        tree = tree_artefact.read(settings.tree)
        return ReviewGate(tree.calibration, tree.trees, settings.explain), tree.card.model_card()
    if settings.calibration is None:
        return ReviewGate(), _card(NOTE_NOTHING)
    calibration = read_calibration(settings.calibration)
    tree_artefact.check_calibrates(calibration, POST_SCORE.name, POST_SCORE.version, settings.calibration)
    return ReviewGate(calibration), _card(NOTE_SCORE)


def _card(note: str) -> ModelCard:
    return ModelCard(POST_SCORE.name, POST_SCORE.version, "trained-here", 0, note=note)
