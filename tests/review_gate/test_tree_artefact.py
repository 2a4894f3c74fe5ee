"""A tree on disk: made from decisions, read strictly, served with reasons."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.review_gate import tree_artefact
from deployments.review_gate.artefact import CalibrationSettings, write_calibration
from deployments.review_gate.calibration import ThinData, calibrate
from deployments.review_gate.loading import load_gate
from deployments.review_gate.make_tree import as_text, make_tree
from deployments.review_gate.node import GateNode
from deployments.review_gate.settings import GateSettings
from deployments.review_gate.train import TreeSettings
from deployments.review_gate.values import NO_HISTORY, AuthorHistory, GateDecision
from deployments.runtime.errors import InvalidInput, MissingWeights, WrongWeights
from tests.review_gate.decisions import table as judged
from tests.review_gate.posts import post

SETTINGS = TreeSettings(leaf_rows=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "tree"
    make_tree(judged(12_000), directory, SETTINGS, CalibrationSettings(resamples=200))
    return directory


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "tree"))


def change(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    edit(card)
    path.write_text(json.dumps(card), encoding="utf-8")


def test_what_was_made_is_what_is_served(made: Path) -> None:
    gate, model = load_gate(GateSettings(tree=made))
    decision = gate.decide(post(nsfw_score=0.9, history=AuthorHistory("ok", 20, 12, 180)))
    assert (decision.action, decision.model, decision.model_version) == ("review", "gate-tree", model.version)
    assert decision.threshold is not None
    assert decision.score >= decision.threshold
    assert decision.calibration == tree_artefact.read(made).calibration.id


def test_reasons_are_words_a_moderator_reads(made: Path) -> None:
    gate, _ = load_gate(GateSettings(tree=made))
    decision = gate.decide(post(nsfw_score=0.4, history=AuthorHistory("ok", 20, 12, 180)))
    assert len(decision.contributions) == 3
    assert "author's discards 12 of 20 posts in 180 days (raises)" in decision.reason
    assert decision.reason.startswith(f"Probability {decision.score:.3g} is at or above {decision.stratum}'s threshold")
    unknown = gate.decide(post(nsfw_score=0.9, history=NO_HISTORY))
    told = {c.feature: c.value for c in unknown.contributions}
    assert told.get("author_history", "missing") == "missing"


def test_only_reviewed_posts_are_explained_unless_asked(made: Path) -> None:
    harmless = post(nsfw_score=0.001, history=AuthorHistory("ok", 60, 0, 180))
    for explain, expected in (("review", 0), ("none", 0), ("all", 3)):
        gate, _ = load_gate(GateSettings.model_validate({"tree": made, "explain": explain}))
        decision = gate.decide(harmless)
        assert (decision.action, len(decision.contributions)) == ("skip", expected)


def test_the_card_tells_spans_metrics_and_versions(made: Path) -> None:
    card = tree_artefact.read(made).card
    assert list(card.spans) == ["train", "validation", "calibration", "test"]
    assert card.spans["train"].last < card.spans["test"].first
    assert card.metrics["test"]["auc"] > card.metrics["test_auc_score_only"]
    comparison = card.metrics["comparison"]
    assert comparison["tree"]["first_net"]["value"] > comparison["score_only"]["first_net"]["value"]
    assert next(iter(card.metrics["mean_effect"])) == "score"
    assert "tree gains" in as_text(card)


def test_making_it_twice_gives_the_same_files(made: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    make_tree(judged(12_000), again, SETTINGS, CalibrationSettings(resamples=200))
    for name in ("model.txt", "calibration.json", "card.json"):
        assert (again / name).read_bytes() == (made / name).read_bytes()


@pytest.mark.parametrize("name", ["model.txt", "calibration.json"])
def test_a_file_of_another_training_is_refused(copy: Path, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
    with pytest.raises(WrongWeights, match=rf"{name} is not the file its card describes"):
        tree_artefact.read(copy)


@pytest.mark.parametrize("name", ["model.txt", "calibration.json", "card.json"])
def test_a_missing_file_is_named_with_what_mends_it(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(MissingWeights, match=rf"{name} is missing. Train one with `parakh gate train`"):
        tree_artefact.read(copy)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda card: card["features"].reverse(), "features are"),
        (lambda card: card.update(features_version=99), "features_version is 99"),
        (lambda card: card.update(lightgbm="9.0.0"), "lightgbm: trained with 9.0.0"),
        (lambda card: card.update(languages=["xx"]), "version: is not that of this model"),
        (lambda card: card["platt"].update(slope=-1), "platt.slope"),
        (lambda card: card.update(format=2), "format"),
        (lambda card: card.update(surprise=1), "surprise"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(copy: Path, edit: Callable[[dict[str, Any]], object], said: str) -> None:
    change(copy, edit)
    with pytest.raises(WrongWeights, match=said):
        tree_artefact.read(copy)


def test_thresholds_of_another_models_scores_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, calibrate(judged(4000), CalibrationSettings(resamples=200), "gate-tree", "abc"))
    with pytest.raises(WrongWeights, match="thresholds are for gate-tree abc, but the gate scores with score 1"):
        load_gate(GateSettings(calibration=path))


def test_the_score_alone_is_served_with_its_calibration(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, calibrate(judged(4000), CalibrationSettings(resamples=200)))
    gate, card = load_gate(GateSettings(calibration=path))
    assert gate.decide(post(nsfw_score=0.99)).action == "review"
    low = gate.decide(post(nsfw_score=0.0))
    assert (low.action, low.model, card.name) == ("skip", "score", "score")
    assert gate.decide(post(nsfw_score=0.0, content_type="audio")).threshold is None  # never calibrated


def test_too_few_bad_posts_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ThinData):
        make_tree(judged(700), tmp_path / "tree", TreeSettings(leaf_rows=10))
    assert not (tmp_path / "tree").exists()


def test_a_directory_that_holds_something_is_kept_unless_told(made: Path) -> None:
    with pytest.raises(InvalidInput, match="is not empty"):
        make_tree(judged(700), made)


async def test_a_node_with_a_tree_batches_and_is_ready(made: Path) -> None:
    node = GateNode(GateSettings(tree=made, max_batch_weight=16))
    posts = [post(nsfw_score=i / 64) for i in range(64)]
    many = await node.decide_many(posts)
    assert many == [await node.decide(p) for p in posts]
    assert all(isinstance(decision, GateDecision) for decision in many)
    status = await node.status()
    assert (status.state, status.model and status.model.name) == ("ready", "gate-tree")
    await node.close()
