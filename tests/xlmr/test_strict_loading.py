"""A checkpoint that is not exactly what its config says is refused, with the file and the mismatch in the message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.runtime.errors import MissingWeights, ModelError, WrongWeights
from deployments.runtime.values import TextEmbedding
from deployments.xlmr.checkpoint import locate
from deployments.xlmr.encoder import EXAMPLE, TextEncoder
from deployments.xlmr.random_weights import LARGE, build_random
from deployments.xlmr.settings import XlmrSettings
from tests.xlmr.conftest import TINY

Load = Callable[..., TextEncoder]
QUERY = "encoder.layer.0.attention.self.query.weight"


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = directory / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def refuse(directory: Path, load: Load, error: type[ModelError], *named: str) -> None:
    with pytest.raises(error) as caught:
        load(directory)
    for part in named:
        assert part in str(caught.value), str(caught.value)


def test_a_missing_key(tiny: Path, loaded: Load) -> None:
    rewrite(tiny, lambda state: state.pop(QUERY))
    refuse(tiny, loaded, WrongWeights, str(tiny / "model.safetensors"), f"missing: {QUERY}")


def test_an_unexpected_key(tiny: Path, loaded: Load) -> None:
    rewrite(tiny, lambda state: state.update({"encoder.layer.2.output.dense.bias": torch.zeros(32)}))
    refuse(tiny, loaded, WrongWeights, "model.safetensors", "unexpected: encoder.layer.2.output.dense.bias")


def test_a_wrong_shape(tiny: Path, loaded: Load) -> None:
    rewrite(tiny, lambda state: state.update({QUERY: torch.zeros(32, 31)}))
    refuse(tiny, loaded, WrongWeights, "model.safetensors", f"wrong shape: {QUERY} (32, 31), expected (32, 32)")


def test_heads_above_the_hidden_states_may_be_there_or_not(tiny: Path, loaded: Load) -> None:
    extra = {"lm_head.bias": torch.zeros(40), "pooler.dense.weight": torch.zeros(32, 32)}
    before = loaded(tiny).encode(["a cat"])[0]
    rewrite(tiny, lambda state: state.update(extra))
    after = loaded(tiny).encode(["a cat"])[0]
    assert isinstance(before, TextEmbedding)
    assert isinstance(after, TextEmbedding)
    np.testing.assert_array_equal(before.vector, after.vector)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file(tiny: Path, loaded: Load, name: str) -> None:
    (tiny / name).unlink()
    refuse(tiny, loaded, MissingWeights, str(tiny), name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_a_damaged_file(tiny: Path, loaded: Load, name: str, damage: str) -> None:
    path = tiny / name
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "foreign": b"<html>"}[damage])
    refuse(tiny, loaded, WrongWeights, str(path))


def test_the_weight_file_is_located_without_loading_it(tiny: Path) -> None:
    assert locate(XlmrSettings(model=str(tiny))) == tiny / "model.safetensors"
    with pytest.raises(MissingWeights, match="allow_hub"):
        locate(XlmrSettings(model="nobody/no-such-model", allow_hub=True))


def test_a_decoder_is_not_a_text_encoder(tiny: Path, loaded: Load) -> None:
    (tiny / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2}))
    refuse(tiny, loaded, WrongWeights, str(tiny / "config.json"), "gpt2 is not a text encoder")


def test_a_model_that_brings_its_own_code_is_refused(tiny: Path, loaded: Load) -> None:
    config = json.loads((tiny / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tiny / "config.json").write_text(json.dumps(config))
    (tiny / "evil.py").write_text(f"open({str(tiny / 'ran')!r}, 'w')")
    refuse(tiny, loaded, WrongWeights, str(tiny / "config.json"))
    assert not (tiny / "ran").exists()


def test_a_config_of_another_family_does_not_fit(tiny: Path, loaded: Load) -> None:
    config = json.loads((tiny / "config.json").read_text()) | {"num_hidden_layers": 3}
    (tiny / "config.json").write_text(json.dumps(config))
    refuse(tiny, loaded, WrongWeights, "model.safetensors", "missing: encoder.layer.2.", "and 12 more")


def test_a_tokenizer_larger_than_the_model_is_refused(tiny: Path, loaded: Load) -> None:
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"word{at}": 22 + at for at in range(30)}
    (tiny / "tokenizer.json").write_text(json.dumps(tokenizer))
    refuse(tiny, loaded, WrongWeights, str(tiny), "its tokenizer has", "the model 40")


def test_weights_that_are_not_finite_are_refused_at_load(tiny: Path, loaded: Load) -> None:
    rewrite(tiny, lambda state: state[QUERY].fill_(float("nan")))
    refuse(tiny, loaded, WrongWeights, str(tiny / "model.safetensors"), f"{QUERY} holds values that are not")


def test_a_torch_file_loads_where_there_is_no_safetensors(tiny: Path, loaded: Load) -> None:
    expected = loaded(tiny).encode(["a cat"])[0]
    torch.save(load_file(tiny / "model.safetensors"), tiny / "pytorch_model.bin")
    (tiny / "model.safetensors").unlink()
    found = loaded(tiny).encode(["a cat"])[0]
    assert isinstance(expected, TextEmbedding)
    assert isinstance(found, TextEmbedding)
    np.testing.assert_array_equal(expected.vector, found.vector)
    (tiny / "pytorch_model.bin").write_bytes(b"garbage")
    refuse(tiny, loaded, WrongWeights, str(tiny / "pytorch_model.bin"))


def test_a_sharded_checkpoint_loads_and_a_lost_shard_is_refused(tiny: Path, loaded: Load) -> None:
    expected = loaded(tiny)
    (tiny / "model.safetensors").unlink()
    build_random(torch.float32, **TINY).save_pretrained(tiny, max_shard_size="20KB")
    found = loaded(tiny)
    a, b = expected.encode(["a cat"])[0], found.encode(["a cat"])[0]
    assert isinstance(a, TextEmbedding)
    assert isinstance(b, TextEmbedding)
    np.testing.assert_array_equal(a.vector, b.vector)
    next(tiny.glob("model-00002-*")).unlink()
    refuse(tiny, loaded, WrongWeights, "model.safetensors.index.json")


@pytest.mark.parametrize("model", ["/no/such/directory", "./nowhere", "nobody/no-such-model"])
def test_a_model_that_is_nowhere_is_named_with_what_to_do(loaded: Load, model: str) -> None:
    with pytest.raises(MissingWeights, match=rf"{model}: .*(parakh models prepare|allow_hub)"):
        loaded(model)


def test_the_card_tells_weights_and_changes_version_with_what_decides_the_vector(tiny: Path, loaded: Load) -> None:
    plain = loaded(tiny).card
    assert (plain.name, plain.weights, plain.dimension) == (tiny.name, "pretrained", 32)
    assert plain.version == loaded(tiny, precision="bf16").card.version
    assert len({plain.version, loaded(tiny, prefix="q: ").card.version, loaded(tiny, max_tokens=9).card.version}) == 3
    (tiny / "card.json").write_text(json.dumps({"name": "mine", "weights": "trained-here", "note": "small"}))
    own = loaded(tiny).card
    assert (own.name, own.weights, own.note, own.version) == ("mine", "trained-here", "small", plain.version)


@pytest.mark.parametrize("card", ["{", "[1]", '{"weights": "good"}'])
def test_a_damaged_model_card_is_refused(tiny: Path, loaded: Load, card: str) -> None:
    (tiny / "card.json").write_text(card)
    refuse(tiny, loaded, WrongWeights, str(tiny / "card.json"))


@pytest.mark.parametrize("allow_hub", [False, True])
def test_a_hub_id_in_the_local_cache_loads_without_network(
    tiny: Path, loaded: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_hub: bool
) -> None:
    from huggingface_hub import constants

    cached = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny, cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert loaded("someone/tiny", allow_hub=allow_hub).card.name == "someone/tiny"


@pytest.mark.slow
def test_xlm_roberta_large_saved_in_its_own_format_loads_strictly(
    tmp_path: Path, loaded: Load, e5_directory: Path
) -> None:
    """The true architecture: 24 layers of 1024, 560 M parameters; bf16 so that it takes 1.1 GB and not 2.2."""
    directory = tmp_path / "xlm-roberta-large"
    try:
        model = build_random(torch.bfloat16)
        assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(559e6, rel=0.01)
        model.save_pretrained(directory)
        shutil.copy(e5_directory / "tokenizer.json", directory)
        encoder = loaded(directory, precision="bf16")
        tokens = encoder._ready().tokenizer(EXAMPLE).ids
        with torch.inference_mode():
            hidden = model(torch.tensor([tokens])).last_hidden_state[0].float()
        (result,) = encoder.encode([EXAMPLE])
        assert isinstance(result, TextEmbedding)
        assert result.vector.shape == (LARGE["hidden_size"],)
        expected = hidden.mean(0).numpy()
        cosine = result.vector @ expected / np.linalg.norm(result.vector) / np.linalg.norm(expected)
        assert cosine > 0.9998  # packed and plain round bf16 at other places
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "name", "dimension"),
    [("random", "xlm-roberta-large", 1024), ("random-small", "multilingual-e5-small", 384)],
)
def test_random_weights_of_the_true_shape_are_named_so(
    e5_directory: Path, weights: Literal["random", "random-small"], name: str, dimension: int
) -> None:
    encoder = TextEncoder(XlmrSettings(weights=weights))  # e5_directory: its packages hold the tokenizer
    encoder.load()
    assert (encoder.card.name, encoder.card.weights, encoder.card.dimension) == (name, "random", dimension)
    (result,) = encoder.encode(["a plain sentence"])
    assert isinstance(result, TextEmbedding)
    assert result.vector.shape == (dimension,)
