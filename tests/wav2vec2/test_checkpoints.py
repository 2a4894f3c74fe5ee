"""A checkpoint that is not exactly what its config says is refused, with the file and the mismatch in the message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from deployments.runtime.errors import MissingWeights, ModelError, WrongWeights
from deployments.wav2vec2.agreement import Agreement, probe_clips, require
from deployments.wav2vec2.checkpoint import open_checkpoint
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.values import Clip, ClipScores
from tests.wav2vec2.conftest import loaded, make_tiny, sound

QUERY = "wav2vec2.encoder.layers.0.attention.q_proj.weight"
State = dict[str, torch.Tensor]


def rewrite(directory: Path, change: Callable[[State], object]) -> None:
    path = directory / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def reconfigure(directory: Path, name: str = "config.json", **changes: Any) -> None:
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refuse(directory: Path | str, error: type[ModelError], *named: str, **changes: Any) -> None:
    with pytest.raises(error) as caught:
        loaded({"hi": directory}, **changes)
    for part in named:
        assert part in str(caught.value), str(caught.value)


def scores_of(directory: Path, **changes: Any) -> ClipScores:
    (scores,) = loaded({"hi": directory}, **changes).encode([Clip(sound(5000), "hi")])
    assert isinstance(scores, ClipScores)
    return scores


def test_a_missing_key(tiny: Path) -> None:
    rewrite(tiny, lambda state: state.pop(QUERY))
    refuse(tiny, WrongWeights, str(tiny / "model.safetensors"), f"missing: {QUERY}")


@pytest.mark.parametrize("key", ["projector.weight", "classifier.bias"])
def test_a_pretrained_trunk_without_a_head_is_no_classifier(tiny: Path, key: str) -> None:
    rewrite(tiny, lambda state: state.pop(key))
    refuse(tiny, WrongWeights, f"missing: {key}")


def test_an_unexpected_key(tiny: Path) -> None:
    rewrite(tiny, lambda state: state.update({"lm_head.weight": torch.zeros(3, 3)}))
    refuse(tiny, WrongWeights, "unexpected: lm_head.weight")


def test_a_wrong_shape(tiny: Path) -> None:
    rewrite(tiny, lambda state: state.update({QUERY: torch.zeros(24, 23)}))
    refuse(tiny, WrongWeights, f"wrong shape: {QUERY} (24, 23), expected (24, 24)")


@pytest.mark.parametrize("key", [QUERY, "classifier.weight"])
def test_weights_that_are_not_finite(tiny: Path, key: str) -> None:
    rewrite(tiny, lambda state: state[key].view(-1)[0].fill_(float("nan")))
    refuse(tiny, WrongWeights, "not finite")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file(tiny: Path, name: str) -> None:
    (tiny / name).unlink()
    refuse(tiny, MissingWeights, str(tiny), name)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_a_damaged_file(tiny: Path, name: str, damage: str) -> None:
    path = tiny / name
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "foreign": b"<html>"}[damage])
    refuse(tiny, WrongWeights, str(path))


def test_pickled_weights_are_not_read(tiny: Path) -> None:
    torch.save(load_file(tiny / "model.safetensors"), tiny / "pytorch_model.bin")
    (tiny / "model.safetensors").unlink()
    refuse(tiny, MissingWeights, "pickled weights are refused")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "hubert"}, "'hubert', expected 'wav2vec2'"),
        ({"problem_type": "multi_label_classification"}, "one label at a time"),
        ({"add_adapter": True}, "add_adapter"),
        ({"feat_extract_norm": "batch"}, "batch"),
        ({"num_hidden_layers": 3}, "missing: wav2vec2.encoder.layers.2."),
    ],
)
def test_a_config_of_something_else(tiny: Path, changes: dict[str, Any], named: str) -> None:
    reconfigure(tiny, **changes)
    refuse(tiny, WrongWeights, str(tiny), named)


def test_a_preprocessor_of_another_rate(tiny: Path) -> None:
    reconfigure(tiny, "preprocessor_config.json", sampling_rate=8000)
    refuse(tiny, WrongWeights, "sampling_rate is 8000")


@pytest.mark.parametrize("model", ["/no/such/directory", "./nowhere", "nobody/no-such-model"])
def test_a_model_that_is_nowhere(model: str) -> None:
    refuse(model, MissingWeights, model)


def test_names_of_weight_norm_from_before_torch_2_1_are_known(tiny: Path) -> None:
    before = scores_of(tiny)
    new = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original"

    def rename(state: State) -> None:
        for at, old in enumerate("gv"):
            state[f"wav2vec2.encoder.pos_conv_embed.conv.weight_{old}"] = state.pop(f"{new}{at}")
        state["wav2vec2.masked_spec_embed"] = torch.zeros(24)  # training only

    digest = open_checkpoint(str(tiny), Wav2Vec2Settings()).trunk
    rewrite(tiny, rename)
    np.testing.assert_array_equal(scores_of(tiny).probabilities, before.probabilities)
    assert open_checkpoint(str(tiny), Wav2Vec2Settings()).trunk == digest


def test_a_sharded_checkpoint_loads_and_a_lost_shard_is_refused(tiny: Path) -> None:
    from transformers import Wav2Vec2ForSequenceClassification

    before = scores_of(tiny)
    model = Wav2Vec2ForSequenceClassification.from_pretrained(tiny)
    (tiny / "model.safetensors").unlink()
    model.save_pretrained(tiny, max_shard_size="20KB")
    np.testing.assert_array_equal(scores_of(tiny).probabilities, before.probabilities)
    next(tiny.glob("model-00002-*")).unlink()
    refuse(tiny, MissingWeights, "model-00002-", "model.safetensors.index.json")


def test_half_precision_files_load(tiny: Path) -> None:
    before = scores_of(tiny)
    rewrite(tiny, lambda state: state.update({name: tensor.half() for name, tensor in state.items()}))
    after = scores_of(tiny)
    assert before.probabilities is not None
    assert after.probabilities is not None
    np.testing.assert_allclose(after.probabilities, before.probabilities, atol=0.01)


def test_a_hub_id_in_the_local_cache_loads_without_network(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cached = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny, cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert loaded({"hi": "someone/tiny"}).card.name == "someone/tiny"


# --- labels ---


def test_labels_named_like_categories_need_no_map(tmp_path: Path) -> None:
    scores = scores_of(make_tiny(tmp_path, labels=("Hate", "safe", "violence")))
    assert scores.category_scores is not None
    assert set(scores.labels) == {"Hate", "safe", "violence"}
    assert scores.category_scores["hate"] == pytest.approx(scores.labels["Hate"])
    assert scores.category_scores["nudity"] == 0.0
    assert sum(scores.category_scores.values()) == pytest.approx(1.0, abs=1e-6)
    assert scores.nsfw_score == pytest.approx(1 - scores.labels["safe"], abs=1e-6)


def test_labels_that_share_a_category_add_up(tmp_path: Path) -> None:
    directory = make_tiny(tmp_path, labels=("NEUTRAL", "slur", "insult"))
    scores = scores_of(directory, label_map={"NEUTRAL": "safe", "slur": "abusive", "insult": "abusive"})
    assert scores.category_scores is not None
    assert scores.category_scores["abusive"] == pytest.approx(scores.labels["slur"] + scores.labels["insult"], abs=1e-6)


def test_a_label_that_is_no_category_is_named(tmp_path: Path) -> None:
    directory = make_tiny(tmp_path, labels=("safe", "LABEL_1"))
    refuse(directory, WrongWeights, str(directory / "config.json"), "'LABEL_1' is no category", "label_map")


def test_a_checkpoint_without_a_safe_label_would_flag_everything(tmp_path: Path) -> None:
    refuse(make_tiny(tmp_path, labels=("hate", "violence")), WrongWeights, "no label stands for 'safe'")


# --- card ---


def test_the_card_tells_the_weights_and_changes_its_version_with_what_decides(tiny: Path) -> None:
    card = loaded({"hi": tiny}).card
    assert (card.name, card.weights, card.precision, card.dimension) == (tiny.name, "pretrained", "fp32", 0)
    versions = {card.version, loaded({"hi": tiny}, label_map={"x": "safe"}).card.version}
    reconfigure(tiny, "preprocessor_config.json", do_normalize=False)
    versions.add(loaded({"hi": tiny}).card.version)
    rewrite(tiny, lambda state: state["classifier.bias"].add_(1))
    versions.add(loaded({"hi": tiny}).card.version)
    assert len(versions) == 4
    (tiny / "card.json").write_text(json.dumps({"name": "mine", "weights": "trained-here", "note": "small"}))
    own = loaded({"hi": tiny}).card
    assert (own.name, own.weights, own.note) == ("mine", "trained-here", "small")


@pytest.mark.parametrize("card", ["{", "[1]", '{"weights": "good"}'])
def test_a_damaged_card_is_refused(tiny: Path, card: str) -> None:
    (tiny / "card.json").write_text(card)
    refuse(tiny, WrongWeights, str(tiny / "card.json"))


# --- agreement with fp32 ---


def test_agreement_is_measured_at_load(tiny: Path) -> None:
    exact = loaded({"hi": tiny}).languages()[0]
    rounded = loaded({"hi": tiny}, precision="bf16").languages()[0]
    assert exact.agreement == pytest.approx(1.0, abs=1e-9)
    assert rounded.agreement is not None
    assert 0.999 < rounded.agreement < 1.0
    assert rounded.score_shift is not None
    assert rounded.score_shift > 0


def test_a_model_below_the_least_agreement_is_refused_with_the_number(tiny: Path) -> None:
    refuse(tiny, ModelError, str(tiny), "cosine of 0.99", "min_agreement is 1.0", precision="bf16", min_agreement=1.0)
    refuse(tiny, ModelError, "moves a probability by 0.0", precision="bf16", max_score_shift=1e-6, min_agreement=0.9)


def test_a_model_that_gives_no_number_agrees_with_nothing() -> None:
    with pytest.raises(ModelError, match="nan"):
        require(Agreement(float("nan"), 0.0), "x", 0.9, 0.1)
    with pytest.raises(ModelError, match="nan"):
        require(Agreement(1.0, float("nan")), "x", 0.9, 0.1)


def test_the_probe_clips_are_always_the_same() -> None:
    for one, other in zip(probe_clips(), probe_clips(), strict=True):
        np.testing.assert_array_equal(one, other)


# --- settings ---


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"models": {"hindi language": "x"}}, "not a BCP-47 language tag"),
        ({"models": {"hi": "x"}}, "default 'und' is not in `models`"),
        ({"models": {"hi": "x", "HI": "y"}, "default": "hi"}, "the same language tag"),
        ({"models": {}}, "at least 1"),
        ({"label_map": {"a": "rude"}}, "rude is not a category"),
        ({"device": "cuda", "runtime": "openvino"}, "'openvino' is for device 'cpu'"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Wav2Vec2Settings(**given)


def test_auto_is_openvino_on_a_cpu_and_torch_on_a_gpu() -> None:
    assert Wav2Vec2Settings().resolved_runtime == "openvino"
    assert Wav2Vec2Settings(device="cuda").resolved_runtime == "torch"
