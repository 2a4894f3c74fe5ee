"""The small model's directory, as it ships beside the code, in Hugging Face's own format."""

from __future__ import annotations

from pathlib import Path

from deployments.runtime.errors import MissingWeights
from deployments.wav2vec2.settings import SMALL


def artefacts() -> Path:
    return Path(__file__).parent / "artefacts"


def small_directory() -> Path:
    """Raises MissingWeights with the command that makes it."""
    directory = artefacts() / SMALL
    if not directory.is_dir():
        raise MissingWeights(f"{directory}: no such directory; run `python -m deployments.wav2vec2.train_small`")
    return directory
