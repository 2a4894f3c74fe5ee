"""What tests of several packages share: a whole graph of fakes in this process, and small media."""

from __future__ import annotations

import io
import os
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments.fusion.head import random_head
from deployments.runtime.values import Modality
from serve_app.config import AppConfig

IN_CI = bool(os.environ.get("CI"))


def skip_or_fail(reason: str) -> None:
    """On a user's machine a test that lacks a server skips and says why; in CI, which installs it, it fails."""
    if IN_CI:
        pytest.fail(f"in CI this must run: {reason}")
    pytest.skip(reason)


@pytest.fixture
def fake_config(tmp_path: Path) -> AppConfig:
    """The true graph with fake encoders, whose dimensions are 48, 128 and 384, and a random fusion head for them."""
    head = tmp_path / "head"
    random_head({Modality.VISUAL: 48, Modality.AUDIO: 128, Modality.TEXT: 384}, seed=0, hidden=(16, 8)).save(head)
    return AppConfig.model_validate(
        {
            "profile": "custom",
            "data_dir": str(tmp_path),
            "clip": {"encoder": {"model": "fake"}},
            "vggish": {"encoder": {"variant": "fake"}},
            "xlmr": {"encoder": {"model": "fake"}},
            "fusion": {"head": {"artefact": str(head)}},
        }
    )


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def wav() -> bytes:
    """Two seconds of a 440 Hz tone, 16 kHz mono."""
    samples = (np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000) * 12_000).astype(np.int16)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()
