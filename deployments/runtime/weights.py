"""From a weight file on disk to a loaded module, with every step checked and every failure named.

In order: find the file inside an installed package (which is never imported), verify its sha256, read it without
unpickling anything but tensors, load it into a module with no key missing, unexpected or of another shape and no
value that is not finite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.runtime.errors import MissingWeights, WrongWeights

if TYPE_CHECKING:
    import torch

_CHUNK_BYTES = 1 << 20
_SHOWN = 4  # keys of each kind named in a message; the rest is counted


def package_file(distribution: str, version: str, path: str) -> Path:
    """Path of a file of an installed distribution. Raises MissingWeights with the command that mends it."""
    wanted = f"{distribution}=={version}"
    try:
        installed = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        raise MissingWeights(_mend(f"{path} comes from the package {wanted}, which is not installed")) from None
    if installed.version != version:
        raise MissingWeights(_mend(f"{path} comes from the package {wanted}, but {installed.version} is installed"))
    found = Path(str(installed.locate_file(path)))
    if not found.is_file():
        raise MissingWeights(_mend(f"the installed package {wanted} has no file {path}"))
    return found


def _mend(what: str) -> str:
    return f"{what}; run `make setup`, then `parakh models prepare`"


def file_sha256(path: str | Path) -> str:
    """Hexadecimal digest of the file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def verify_sha256(path: Path, expected: str) -> None:
    """Raises MissingWeights where there is no such file, WrongWeights where its bytes are others."""
    path = require_file(path)
    actual = file_sha256(path)
    if actual != expected.lower():
        raise WrongWeights(f"{path}: sha256 is {actual}, expected {expected}")


def require_file(path: str | Path) -> Path:
    """The path with `~` expanded, if it is a file; raises MissingWeights naming it otherwise."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingWeights(f"{path}: no such weight file; run `parakh models prepare`, or correct the model's path")
    return path


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU, in the file's own dtypes. `.safetensors`, else torch.load(weights_only=True).

    A checkpoint that wraps its tensors as {"state_dict": {...}} is unwrapped (open_clip saves such).
    """
    path = require_file(path)
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    wrapped = state.get("state_dict")
    if isinstance(wrapped, Mapping):
        state = wrapped
    return _only_tensors(state, path)


def _read_safetensors(path: Path) -> Mapping[str, object]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WrongWeights(f"{path}: not a whole safetensors file ({error})") from error


def _read_torch(path: Path) -> Mapping[str, object]:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WrongWeights(f"{path}: not a whole file of torch tensors ({reason})") from error
    if not isinstance(state, Mapping):
        raise WrongWeights(f"{path}: holds a {type(state).__name__}, expected tensors by name")
    return state


def _only_tensors(state: Mapping[str, object], path: Path) -> dict[str, torch.Tensor]:
    import torch

    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    others = [str(name) for name in state if name not in tensors]
    if others or not tensors:
        raise WrongWeights(f"{path}: expected tensors by name, found {_some(others) if others else 'none'}")
    return tensors


def load_strictly(module: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy every tensor into the module; raises WrongWeights listing the first mismatches, and then copies nothing.

    A tensor that holds NaN or infinity is a mismatch too: such a model would answer, and every answer be worthless.
    """
    own = module.state_dict()
    report_mismatch(
        path,
        missing=[name for name in own if name not in state],
        unexpected=[name for name in state if name not in own],
        wrong_shape=[
            f"{name} {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in state and state[name].shape != tensor.shape
        ],
        not_finite=[name for name, tensor in state.items() if not tensor.isfinite().all()],
    )
    module.load_state_dict(dict(state), strict=True)


def report_mismatch(
    path: Path,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    wrong_shape: Sequence[str] = (),
    not_finite: Sequence[str] = (),
) -> None:
    """Raises WrongWeights naming the file and the first few keys of each kind; returns where there are none."""
    kinds = {"missing": missing, "unexpected": unexpected, "wrong shape": wrong_shape, "not finite": not_finite}
    parts = [f"{kind}: {_some(names)}" for kind, names in kinds.items() if names]
    if parts:
        raise WrongWeights(f"{path} does not fit the model; " + "; ".join(parts))


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
