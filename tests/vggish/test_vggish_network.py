"""The full network in torchvggish's names and shapes, saved and loaded strictly, with the optional postprocessing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from deployments.runtime.errors import MissingWeights, WrongWeights
from deployments.runtime.values import Embeddings
from deployments.vggish.artefact import artefacts, read_card
from deployments.vggish.encoder import SoundItem, VggishEncoder
from deployments.vggish.network import VggishNetwork
from deployments.vggish.postprocess import Postprocessor
from deployments.vggish.settings import VggishSettings

TORCHVGGISH = {
    "features.0.weight": (64, 1, 3, 3),
    "features.0.bias": (64,),
    "features.3.weight": (128, 64, 3, 3),
    "features.3.bias": (128,),
    "features.6.weight": (256, 128, 3, 3),
    "features.6.bias": (256,),
    "features.8.weight": (256, 256, 3, 3),
    "features.8.bias": (256,),
    "features.11.weight": (512, 256, 3, 3),
    "features.11.bias": (512,),
    "features.13.weight": (512, 512, 3, 3),
    "features.13.bias": (512,),
    "embeddings.0.weight": (4096, 12288),
    "embeddings.0.bias": (4096,),
    "embeddings.2.weight": (4096, 4096),
    "embeddings.2.bias": (4096,),
    "embeddings.4.weight": (128, 4096),
    "embeddings.4.bias": (128,),
}
"""Every tensor of the public checkpoint vggish-10086976.pth."""

State = dict[str, torch.Tensor]


def _settings(**values: object) -> VggishSettings:
    return VggishSettings.model_validate({"variant": "vggish", "precision": "fp32", **values})


def _small_state(**more: torch.Tensor) -> State:
    """Of a network of width 2: the same names, a file of 0.3 MB."""
    torch.manual_seed(0)
    return {**VggishNetwork(2).state_dict(), **more}


def _sound(seconds: float = 1.0) -> SoundItem:
    return SoundItem(np.random.default_rng(0).uniform(-0.5, 0.5, round(16_000 * seconds)).astype(np.float32))


def _vectors(encoder: VggishEncoder, item: SoundItem) -> np.ndarray:
    (result,) = encoder.encode([item])
    assert isinstance(result, Embeddings)
    return result.vectors


def test_names_and_shapes_are_torchvggishs() -> None:
    with torch.device("meta"):
        state = VggishNetwork().state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == TORCHVGGISH


def test_a_full_size_checkpoint_loads_and_gives_what_its_layers_give(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    state = {
        name: torch.empty(shape).uniform_(-1, 1, generator=generator) * (2.0 / np.prod(shape[1:], initial=1)) ** 0.5
        for name, shape in TORCHVGGISH.items()
    }
    torch.save(state, tmp_path / "vggish.pth")
    encoder = VggishEncoder(_settings(checkpoint=str(tmp_path / "vggish.pth")))
    encoder.load()
    vectors = _vectors(encoder, _sound())
    assert vectors.shape == (1, 128)
    assert encoder.card.weights == "pretrained"
    assert encoder.card.sha256 is not None
    assert np.allclose(vectors, _as_torchvggish(state, _sound()), rtol=1e-3, atol=1e-5)


def _as_torchvggish(state: State, item: SoundItem) -> np.ndarray:
    """torchvggish's forward pass, written out: pool after convolutions 0, 3, 8, 13; H and W before channels; ReLUs."""
    from deployments.vggish.log_mel import log_mel_examples

    x = torch.from_numpy(log_mel_examples(item.samples))[:, None]
    for layer in (0, 3, 6, 8, 11, 13):
        x = torch.relu(torch.conv2d(x, state[f"features.{layer}.weight"], state[f"features.{layer}.bias"], padding=1))
        if layer in (0, 3, 8, 13):
            x = torch.max_pool2d(x, 2)
    x = torch.transpose(torch.transpose(x, 1, 3), 1, 2).reshape(len(x), -1)
    for layer in (0, 2, 4):
        weight, bias = state[f"embeddings.{layer}.weight"], state[f"embeddings.{layer}.bias"]
        x = torch.relu(x @ weight.T + bias)
    return x.numpy()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("missing", "features.8.bias"),
        ("surplus", "features.99.weight"),
        ("wrong shape", "embeddings.4.weight"),
        ("truncated", "whole"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error_naming_it_and_the_mismatch(
    change: str, named: str, suffix: str, tmp_path: Path
) -> None:
    state, path = _small_state(), tmp_path / f"changed{suffix}"
    if change == "missing":
        del state[named]
    elif change == "surplus":
        state[named] = torch.zeros(1)
    elif change == "wrong shape":
        state[named] = torch.zeros(127, 128)
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WrongWeights) as caught:
        VggishEncoder(_settings(checkpoint=str(path), width=2)).load()
    assert path.name in str(caught.value)
    assert named in str(caught.value)


def test_an_absent_file_is_an_error_that_names_it_and_no_checkpoint_is_refused_when_read(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"absent\.pth"):
        VggishEncoder(_settings(checkpoint=str(tmp_path / "absent.pth"))).load()
    with pytest.raises(ValidationError, match="checkpoint"):
        _settings()


def test_random_weights_are_had_only_by_asking_and_are_the_same_every_time() -> None:
    one, other = (VggishEncoder(_settings(weights="random", width=2)) for _ in range(2))
    one.load()
    other.load()
    assert one.card.weights == "random"
    assert np.array_equal(_vectors(one, _sound()), _vectors(other, _sound()))


@pytest.fixture
def pca() -> State:
    torch.manual_seed(1)
    return {
        "pca_matrix": torch.linalg.qr(torch.randn(128, 128))[0].contiguous(),
        "pca_means": torch.randn(128, 1) * 0.1,
    }


def test_pca_and_quantisation_are_the_released_ones(tmp_path: Path, pca: State) -> None:
    state = _small_state(**{f"pproc.{name}": tensor for name, tensor in pca.items()})
    save_file(state, tmp_path / "whole.safetensors")
    checkpoint = str(tmp_path / "whole.safetensors")
    raw, white, quantised = (
        _loaded_vectors(_settings(checkpoint=checkpoint, width=2, postprocess=how))
        for how in ("off", "pca", "pca-quantised")
    )
    expected = (raw - pca["pca_means"].numpy().T) @ pca["pca_matrix"].numpy().T
    assert np.allclose(white, expected, atol=1e-5)
    assert np.abs(quantised - (np.clip(white, -2, 2) + 2) * 63.75).max() <= 0.5 + 1e-4
    assert np.array_equal(quantised, quantised.astype(np.uint8))


@pytest.mark.parametrize(
    ("value", "quantised"),
    [(-9.0, 0), (-2.0, 0), (-1.99, 1), (0.99, 191), (1.0, 191), (1.02, 193), (1.99, 254), (2.0, 255), (9.0, 255)],
)
def test_quantisation_rounds_as_torchvggish_where_tensorflows_truncates(value: float, quantised: int) -> None:
    """-1.99, 0.99, 1.02 and 1.99 lie at 0.64, 190.61, 192.53 and 254.36 of 255: a cast would give 0, 190, 192, 254."""
    postprocessor = Postprocessor(quantise=True)
    postprocessor.pca_matrix.copy_(torch.eye(128))
    assert postprocessor(torch.full((1, 128), value)).unique().tolist() == [quantised]


def test_the_version_tells_every_setting_that_changes_the_vectors(tmp_path: Path, pca: State) -> None:
    save_file(_small_state(**{f"pproc.{name}": tensor for name, tensor in pca.items()}), tmp_path / "w.safetensors")
    save_file(pca, tmp_path / "pca.safetensors")
    save_file({**pca, "pca_means": pca["pca_means"] + 1}, tmp_path / "other.safetensors")
    own = {"checkpoint": str(tmp_path / "w.safetensors"), "width": 2}
    changes: list[dict[str, object]] = [
        {},
        {"tail": "pad"},
        {"postprocess": "pca"},
        {"postprocess": "pca-quantised"},
        {"postprocess": "pca", "pca_checkpoint": str(tmp_path / "pca.safetensors")},
        {"postprocess": "pca", "pca_checkpoint": str(tmp_path / "other.safetensors")},
    ]
    versions = [_version(_settings(**own, **change)) for change in changes]
    assert len(set(versions)) == len(changes)
    assert versions == [_version(_settings(**own, **change)) for change in changes]
    assert _version(_settings(**own, pca_checkpoint="unread")) == versions[0]  # without postprocess it changes nothing
    assert _version(_settings(weights="random", width=2)) != _version(_settings(weights="random", width=3))


def test_default_settings_keep_the_version_of_the_weights() -> None:
    """A fusion head names it: another scheme here would refuse every head trained before."""
    assert _version(VggishSettings()) == read_card(artefacts()).version
    assert _version(VggishSettings(max_batch_examples=7, threads=2)) == read_card(artefacts()).version


def _version(settings: VggishSettings) -> str:
    encoder = VggishEncoder(settings)
    encoder.load()
    return encoder.card.version


def test_random_weights_have_no_pca_to_postprocess_with() -> None:
    with pytest.raises(ValidationError, match="postprocess needs a checkpoint's PCA parameters"):
        _settings(weights="random", postprocess="pca")


def test_a_checkpoint_in_the_users_home_may_be_written_with_a_tilde(
    tmp_path: Path, pca: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(_small_state(), tmp_path / "w.safetensors")
    save_file(pca, tmp_path / "pca.safetensors")
    VggishEncoder(
        _settings(checkpoint="~/w.safetensors", width=2, postprocess="pca", pca_checkpoint="~/pca.safetensors")
    ).load()


def test_pca_parameters_may_come_from_their_own_file_in_the_published_names(tmp_path: Path, pca: State) -> None:
    save_file(_small_state(), tmp_path / "network.safetensors")
    published = {"pca_eigen_vectors": pca["pca_matrix"].contiguous(), "pca_means": pca["pca_means"].flatten()}
    save_file(published, tmp_path / "pca.safetensors")
    values = {"checkpoint": str(tmp_path / "network.safetensors"), "width": 2, "postprocess": "pca"}
    raw = _loaded_vectors(_settings(**{**values, "postprocess": "off"}))
    white = _loaded_vectors(_settings(**values, pca_checkpoint=str(tmp_path / "pca.safetensors")))
    assert np.allclose(white, (raw - published["pca_means"].numpy()) @ pca["pca_matrix"].numpy().T, atol=1e-5)
    with pytest.raises(MissingWeights, match="pca_checkpoint"):
        VggishEncoder(_settings(**values)).load()


def _loaded_vectors(settings: VggishSettings) -> np.ndarray:
    encoder = VggishEncoder(settings)
    encoder.load()
    return _vectors(encoder, _sound(3.0))
