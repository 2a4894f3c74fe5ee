"""Settings -> a gate, and the card that says what it runs."""

from __future__ import annotations

from deployments.review_gate.gate import SCORE, ReviewGate
from deployments.review_gate.settings import GateSettings
from deployments.runtime.errors import MissingWeights
from deployments.runtime.values import ModelCard

NOTE_NOTHING = "no calibration is in force: every post is reviewed"


def load_gate(settings: GateSettings) -> tuple[ReviewGate, ModelCard]:
    """Raises MissingWeights or WrongWeights."""
    for path in (settings.tree, settings.calibration):
        if path is not None:
            raise MissingWeights(f"{path} is missing.")
    return ReviewGate(), ModelCard(SCORE, "1", "trained-here", 0, note=NOTE_NOTHING)
