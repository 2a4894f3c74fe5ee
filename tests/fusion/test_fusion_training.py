"""Training gives a head that separates what can be separated, in every subset of modalities, the same way each time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deployments.fusion.artefact import Pooling, TrainedOn
from deployments.fusion.calibration import fit_temperature, negative_log_likelihood
from deployments.fusion.dataset import CALIBRATE, HELDOUT, DatasetError, read_dataset
from deployments.fusion.features import MODALITIES
from deployments.fusion.head import FusionHead
from deployments.fusion.mlp import Mlp
from deployments.fusion.report import SUBSETS, logits_under
from deployments.fusion.served import offset_warnings, served_scores
from deployments.fusion.train import TrainProgress, TrainResult, TrainSettings, train_fusion
from deployments.policy.policy import CATEGORIES
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import Modality
from tests.fusion.separable import DIMENSIONS, write_table


def quick(output: Path, **changes: object) -> TrainSettings:
    return TrainSettings.model_validate({"output": output, "hidden": (16, 8), "epochs": 2, **changes})


def test_held_out_accuracy_is_high_and_every_category_is_told_apart(training: TrainResult) -> None:
    assert training.report["accuracy"] > 0.9
    for name in CATEGORIES:
        row = training.report["categories"][name]
        assert row["auc"] > 0.97, name
        assert min(row["precision"], row["recall"]) > 0.7, name


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_subset_of_modalities_beats_the_commonest_label(
    training: TrainResult, subset: tuple[Modality, ...]
) -> None:
    row = training.report["subsets"]["+".join(subset)]
    assert row["posts"] > 50
    assert row["accuracy"] > row["most_common_label_accuracy"] + 0.2
    assert row["accuracy"] > 0.85


def test_the_report_stands_beside_the_head_as_json_and_as_text(training: TrainResult) -> None:
    files = sorted(p.name for p in training.directory.iterdir())
    assert files == ["card.json", "head.safetensors", "report.json", "report.txt"]
    assert json.loads((training.directory / "report.json").read_text()) == training.report
    text = (training.directory / "report.txt").read_text()
    assert text == training.table
    assert max(map(len, text.splitlines())) <= 80
    assert all(name in text for name in [*CATEGORIES, *("+".join(s) for s in SUBSETS)])


def test_the_temperature_is_the_one_that_the_calibration_part_asks_for(training: TrainResult, table: Path) -> None:
    data, head = read_dataset(table), FusionHead.load(training.directory)
    rows = data.splits == CALIBRATE
    logits, labels = logits_under(head.mlp, data, rows, data.present), data.labels_under(data.present)[rows]
    assert training.card.temperature == training.report["temperature"] != 1.0
    assert training.card.temperature == pytest.approx(fit_temperature(logits, labels))
    assert training.report["ece"]["after"] < 0.1


def test_calibration_mends_a_head_that_is_too_sure(training: TrainResult, table: Path) -> None:
    data, tensors = read_dataset(table), dict(FusionHead.load(training.directory).mlp.tensors)
    for name in ("layers.2.weight", "layers.2.bias"):
        tensors[name] = 6 * tensors[name]
    rows = data.splits == CALIBRATE
    logits, labels = (
        logits_under(Mlp(tensors, data.dimensions), data, rows, data.present),
        data.labels_under(data.present)[rows],
    )
    fitted = fit_temperature(logits, labels)
    assert fitted > 2
    assert negative_log_likelihood(logits, labels, fitted) < 0.7 * negative_log_likelihood(logits, labels)


def test_the_report_tells_what_is_served_and_how_short_a_bad_stretch_is_found(training: TrainResult) -> None:
    report = training.report
    assert report["served"] is None  # the table holds no single frames
    rows = report["short_stretches"]
    assert [row["bad_frames"] for row in rows] == [0, 1, 2, 3, 6, 12]
    assert rows[0]["by_score"] <= rows[0]["review"] < 0.3
    assert rows[-1]["by_score"] > 0.9
    assert all(row["review"] >= row["by_score"] for row in rows)
    assert "bad frames of 60" in training.table


def test_served_scores_are_reported_where_the_table_has_frames(training: TrainResult, table: Path) -> None:
    data, head = read_dataset(table), FusionHead.load(training.directory)
    assert served_scores(head, data) is None
    frames = [
        v[None] if has else None for v, has in zip(data.vectors[Modality.VISUAL], data.present[:, 0], strict=True)
    ]
    served = served_scores(head, replace(data, frames=frames))
    assert served is not None
    assert served["posts"] == int(((data.splits == HELDOUT) & data.present[:, 0]).sum())
    assert served["accuracy"] > 0.9  # of posts of one frame, which has no window of its own: what the mean says


@pytest.mark.parametrize(("offset", "warned"), [(0.0, False), (3.0, False), (4.0, True)])
def test_an_offset_that_hides_a_confident_window_is_told(training: TrainResult, offset: float, warned: bool) -> None:
    pooling = Pooling(offsets={Modality.VISUAL: offset})
    warnings = offset_warnings(training.card.model_copy(update={"pooling": pooling}))
    assert bool(warnings) == warned
    assert all("visual: one window of 60" in warning for warning in warnings)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.jsonl", n=200)
    first = train_fusion(table, quick(tmp_path / "a", seed=1)).card
    again = train_fusion(table, quick(tmp_path / "b", seed=1)).card
    other = train_fusion(table, quick(tmp_path / "c", seed=2)).card
    assert first == again
    assert first.weights_sha256 != other.weights_sha256
    assert first.data_sha256 == other.data_sha256


def test_progress_is_told_once_per_epoch(tmp_path: Path) -> None:
    steps: list[TrainProgress] = []
    train_fusion(write_table(tmp_path / "t.jsonl", n=150), quick(tmp_path / "a", epochs=3), steps.append)
    assert [(s.epoch, s.epochs) for s in steps] == [(1, 3), (2, 3), (3, 3)]
    assert all(np.isfinite([s.train_loss, s.calibrate_loss]).all() for s in steps)


def test_balanced_class_weights_train_too(tmp_path: Path) -> None:
    settings = quick(tmp_path / "a", class_weights="balanced")
    assert train_fusion(write_table(tmp_path / "t.jsonl", n=150), settings).report["posts"]["heldout"] > 0


def test_the_card_names_the_encoders_and_the_dimensions(tmp_path: Path) -> None:
    encoders = {m: TrainedOn(name=f"enc-{m}", version="7", dimension=DIMENSIONS[m]) for m in MODALITIES}
    result = train_fusion(write_table(tmp_path / "t.jsonl", n=150), quick(tmp_path / "a", encoders=encoders))
    loaded = FusionHead.load(result.directory)
    assert loaded.details.encoders == encoders
    assert loaded.dimensions == DIMENSIONS


def test_a_table_for_other_encoders_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    encoders = {m: TrainedOn(name="e", version="1", dimension=99) for m in MODALITIES}
    table = write_table(tmp_path / "t.jsonl", n=150)
    with pytest.raises(DatasetError, match=r"dimension \d+, wanted 99"):
        train_fusion(table, quick(tmp_path / "a", encoders=encoders))
    assert not (tmp_path / "a").exists()


def test_an_artefact_is_not_overwritten_unasked(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.jsonl", n=150)
    kept = train_fusion(table, quick(tmp_path / "a", seed=1)).card
    with pytest.raises(InvalidInput, match="holds an artefact already"):
        train_fusion(table, quick(tmp_path / "a", seed=2))
    assert FusionHead.load(tmp_path / "a").details == kept
    assert train_fusion(table, quick(tmp_path / "a", seed=2, replace=True)).card != kept


def test_training_leaves_torchs_own_random_state_alone(tmp_path: Path) -> None:
    import torch

    before = torch.random.get_rng_state()
    train_fusion(write_table(tmp_path / "t.jsonl", n=150), quick(tmp_path / "a"))
    assert torch.equal(before, torch.random.get_rng_state())
