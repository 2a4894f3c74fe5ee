"""Every way a weight file can be wrong gives an error that names the file and what is wrong with it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deployments.runtime.errors import MissingWeights, WrongWeights
from deployments.runtime.weights import (
    file_sha256,
    load_strictly,
    package_file,
    read_state_dict,
    require_file,
    verify_sha256,
)

HELLO_SHA256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of b"hello"


class Exploit:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "linear.safetensors"
    save_file(dict(torch.nn.Linear(3, 2).state_dict()), path)
    return path


def test_a_file_of_an_installed_package_is_found_without_importing_it() -> None:
    from importlib.metadata import version

    assert package_file("pytest", version("pytest"), "pytest/py.typed").is_file()


@pytest.mark.parametrize(
    ("distribution", "version", "path", "named"),
    [
        ("no-such-distribution", "1.0", "a.bin", "no-such-distribution==1.0, which is not installed"),
        ("pytest", "0.0.1", "pytest/py.typed", "pytest==0.0.1, but"),
    ],
)
def test_a_package_that_is_absent_or_of_another_version_is_named_with_the_mending_command(
    distribution: str, version: str, path: str, named: str
) -> None:
    with pytest.raises(MissingWeights, match=r"make setup.*parakh models prepare") as caught:
        package_file(distribution, version, path)
    assert named in str(caught.value)


def test_a_file_that_the_package_lacks_is_named() -> None:
    from importlib.metadata import version

    with pytest.raises(MissingWeights, match=r"has no file pytest/weights\.bin"):
        package_file("pytest", version("pytest"), "pytest/weights.bin")


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(b"hello")
    assert file_sha256(str(path)) == HELLO_SHA256
    verify_sha256(path, HELLO_SHA256.upper())
    with pytest.raises(WrongWeights) as caught:
        verify_sha256(path, "0" * 64)
    for part in (str(path), HELLO_SHA256, "0" * 64):
        assert part in str(caught.value)
    with pytest.raises(MissingWeights, match="absent"):
        verify_sha256(tmp_path / "absent", HELLO_SHA256)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_state_dict_comes_back_from_either_format(saved: Path, wrap: bool) -> None:
    state = read_state_dict(saved)
    torch.save({"state_dict": state, "epoch": 3} if wrap else state, saved.with_suffix(".pt"))
    again = read_state_dict(saved.with_suffix(".pt"))
    assert set(again) == {"weight", "bias"}
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", ["empty", "foreign", "truncated"])
def test_a_damaged_file_is_named(saved: Path, suffix: str, content: str) -> None:
    path = saved.with_name("damaged" + suffix)
    if suffix == ".pt":
        torch.save(read_state_dict(saved), saved.with_suffix(".pt"))
    whole = saved.with_suffix(suffix).read_bytes()
    path.write_bytes(
        {"empty": b"", "foreign": b"<html>not found</html>", "truncated": whole[: len(whole) - 9]}[content]
    )
    with pytest.raises(WrongWeights, match=str(path)):
        read_state_dict(path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(Exploit(tmp_path / "exploited"), protocol=2))
    with pytest.raises(WrongWeights, match=r"evil\.pt"):
        read_state_dict(path)
    assert not (tmp_path / "exploited").exists()


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(WrongWeights, match="expected tensors by name, found epoch"):
        read_state_dict(tmp_path / "a.pt")
    torch.save([torch.ones(1)], tmp_path / "b.pt")
    with pytest.raises(WrongWeights, match="holds a list"):
        read_state_dict(tmp_path / "b.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"none\.safetensors"):
        read_state_dict(tmp_path / "none.safetensors")


def test_loading_is_strict_and_copies_nothing_on_a_mismatch(saved: Path) -> None:
    module = torch.nn.Linear(3, 2)
    before = module.weight.detach().clone()
    state = read_state_dict(saved)
    wrong = {"weight": state["weight"][:, :2], "scale": state["bias"]}
    with pytest.raises(WrongWeights) as caught:
        load_strictly(module, wrong, saved)
    message = str(caught.value)
    assert str(saved) in message
    assert "missing: bias" in message
    assert "unexpected: scale" in message
    assert "weight (2, 2), expected (2, 3)" in message
    assert torch.equal(module.weight, before)
    load_strictly(module, state, saved)
    assert torch.equal(module.weight, state["weight"])


def test_a_long_list_of_mismatches_is_cut_and_counted(saved: Path) -> None:
    module = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(5)))
    with pytest.raises(WrongWeights, match=r"0.weight, 0.bias, 1.weight, 1.bias and 6 more"):
        load_strictly(module, {}, saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name_and_nothing_is_copied(saved: Path, value: float) -> None:
    module = torch.nn.Linear(3, 2)
    before, state = module.weight.detach().clone(), read_state_dict(saved)
    state["bias"][1] = value
    with pytest.raises(WrongWeights, match=r"linear\.safetensors does not fit the model; not finite: bias"):
        load_strictly(module, state, saved)
    assert torch.equal(module.weight, before)


def test_whole_numbers_and_flags_among_the_weights_are_fine(tmp_path: Path) -> None:
    norm = torch.nn.BatchNorm1d(2)
    load_strictly(norm, dict(torch.nn.BatchNorm1d(2).state_dict()), tmp_path)


def test_a_path_in_the_users_home_may_be_written_with_a_tilde(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    assert require_file(f"~/{saved.name}") == saved
    assert set(read_state_dict(Path(f"~/{saved.name}"))) == {"weight", "bias"}
    verify_sha256(Path(f"~/{saved.name}"), file_sha256(saved))
