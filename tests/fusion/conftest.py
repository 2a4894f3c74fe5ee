"""One head, trained once on separable embeddings, for all tests of what a trained head does."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.fusion.head import FusionHead
from deployments.fusion.train import TrainResult, TrainSettings, train_fusion
from tests.fusion.separable import write_table

NOISE = 0.12  # a cosine of about 0.8 between two vectors of one category


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "table.jsonl", n=1400, noise=NOISE)


@pytest.fixture(scope="session")
def training(table: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("fusion")
    return train_fusion(
        table, TrainSettings(output=folder / "head", hidden=(64, 32), learning_rate=5e-3, epochs=15, batch_size=128)
    )


@pytest.fixture(scope="session")
def head(training: TrainResult) -> FusionHead:
    return FusionHead.load(training.directory)
