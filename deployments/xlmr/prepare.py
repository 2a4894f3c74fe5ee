"""What `parakh models prepare` does for the text node of the local profile."""

from __future__ import annotations

from pathlib import Path

from deployments.xlmr.e5_conversion import Progress, ensure_e5_directory


def prepare_local(models_dir: Path, progress: Progress = lambda step, fraction: None) -> Path:
    """The directory to name as the text model (`XlmrSettings.model`): made if absent, redone if damaged, else kept.

    Needs no network. Raises MissingWeights naming the package that is not installed, or WrongWeights.
    """
    return ensure_e5_directory(models_dir, progress)
