"""Where an open_clip model's weights come from: a file, a directory, a pretrained tag, or (asked for) nowhere.

Every way ends in the same strict load: no key missing, unexpected or of another shape.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deployments.clip.settings import ClipSettings
from deployments.runtime.errors import MissingWeights
from deployments.runtime.values import Weights
from deployments.runtime.weights import file_sha256, load_strictly, read_state_dict

RANDOM_SEED = 0
DIRECTORY_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""What a checkpoint directory may hold, as on the hub; the first that is there is read."""

_DISTRIBUTED_PREFIX = "module."  # open_clip's training script saves the model inside its DDP wrapper


class Loaded(NamedTuple):
    model: Any  # open_clip.CLIP
    tokenize: Callable[[list[str]], Any]
    version: str
    weights: Weights
    sha256: str | None
    note: str


def load_model(settings: ClipSettings) -> Loaded:
    """The whole model, both towers, on the CPU in fp32. Raises MissingWeights or WrongWeights."""
    if settings.weights == "random":
        return _loaded(settings, _build(settings, quick_gelu=True), f"random-{RANDOM_SEED}", "random", None)
    assert settings.checkpoint is not None  # the settings' own validator
    path = local_file(settings.checkpoint)
    tag = None if path else _pretrained(settings.architecture, settings.checkpoint)
    quick_gelu = settings.quick_gelu if tag is None else bool(tag.get("quick_gelu", False))
    path = path or _download(settings, tag or {})
    model = _build(settings, quick_gelu)
    load_strictly(model, _unwrapped(read_state_dict(path)), path)
    sha256 = file_sha256(path)
    name = settings.checkpoint if tag is not None else path.name
    return _loaded(settings, model, f"{name}-{sha256[:8]}", "pretrained", sha256)


def _loaded(settings: ClipSettings, model: nn.Module, version: str, weights: Weights, sha256: str | None) -> Loaded:
    import open_clip

    note = "Untrained: for benchmarks only." if weights == "random" else f"Weights {settings.checkpoint}."
    return Loaded(model, open_clip.get_tokenizer(settings.architecture), version, weights, sha256, note)


def _build(settings: ClipSettings, quick_gelu: bool) -> nn.Module:
    """The architecture with seeded random weights; leaves the process's own random state as it was."""
    import open_clip

    with torch.random.fork_rng(devices=[]), _without_open_clips_warning():
        torch.manual_seed(RANDOM_SEED)
        model: nn.Module = open_clip.create_model(
            settings.architecture, pretrained=None, load_weights=False, force_quick_gelu=quick_gelu
        )
    return model


@contextmanager
def _without_open_clips_warning() -> Iterator[None]:
    """open_clip warns of random weights when it builds a model; here the weights are read, strictly, right after."""
    root, silence = logging.getLogger(), logging.Filter("no logger has this name")
    root.addFilter(silence)
    try:
        yield
    finally:
        root.removeFilter(silence)


def local_file(checkpoint: str) -> Path | None:
    """The file itself, or the one inside the directory; None where there is neither, so it may be a tag."""
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        return None
    found = [path / name for name in DIRECTORY_NAMES if (path / name).is_file()]
    if not found:
        raise MissingWeights(f"{path}: holds neither {' nor '.join(DIRECTORY_NAMES)}")
    return found[0]


def _pretrained(architecture: str, tag: str) -> Mapping[str, Any]:
    import open_clip

    known = open_clip.get_pretrained_cfg(architecture, tag)
    if not known:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise MissingWeights(f"{tag}: no such file, and no pretrained tag of {architecture} (there are: {tags})")
    return dict(known)


def _download(settings: ClipSettings, known: Mapping[str, Any]) -> Path:
    """From the hub's cache, or over the network. What goes wrong there has many types and one remedy."""
    import open_clip

    try:
        return Path(open_clip.download_pretrained(dict(known)))
    except Exception as error:
        raise MissingWeights(
            f"{settings.architecture} {settings.checkpoint}: not in the hub's cache, and fetching it failed; "
            "run `parakh models prepare` with a network, or set checkpoint to a local file"
        ) from error


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if not all(name.startswith(_DISTRIBUTED_PREFIX) for name in state):
        return state
    return {name.removeprefix(_DISTRIBUTED_PREFIX): tensor for name, tensor in state.items()}
