"""`parakh models`: what a profile's models are, where their weights lie, and making the ones that are made here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deployments.clip.open_clip_weights import local_file
from deployments.clip.opennsfw import locate as locate_opennsfw
from deployments.clip.registry import make_encoder as make_visual_encoder
from deployments.clip.settings import ClipSettings
from deployments.fusion.artefact import WEIGHTS_FILE
from deployments.runtime.errors import ModelError
from deployments.runtime.weights import require_file
from deployments.vggish.encoder import locate as locate_sound
from deployments.vggish.registry import make_encoder as make_sound_encoder
from deployments.xlmr.checkpoint import find_directory
from deployments.xlmr.prepare import prepare_local
from deployments.xlmr.registry import make_encoder as make_text_encoder
from serve_app.config import AppConfig

Progress = Callable[[str, float], None]


def prepare(config: AppConfig, progress: Progress) -> None:
    """Make or fetch every model file of the profile, and load each once.

    Raises MissingWeights or WrongWeights naming the package or file, and what mends it.
    """
    if config.profile == "local":
        prepare_local(config.models_dir, progress)
    loads = {
        "clip": make_visual_encoder(config.clip.encoder).load,
        "vggish": make_sound_encoder(config.vggish.encoder).load,
        "xlmr": make_text_encoder(config.xlmr.encoder).load,
    }
    for number, (node, load) in enumerate(loads.items()):
        progress(f"{node}: loading", number / len(loads))
        load()
    progress("all models are there", 1.0)


@dataclass(frozen=True)
class ModelFile:
    """One node's model: where its weights are or come from, and whether they are there (None: told at load)."""

    node: str
    model: str
    where: str
    present: bool | None


def inventory(config: AppConfig) -> list[ModelFile]:
    """Looks at files only; `parakh doctor` loads them."""
    clip, vggish, xlmr, head = config.clip.encoder, config.vggish.encoder, config.xlmr.encoder, config.fusion.head
    return [
        _looked("clip", clip.model, lambda: _locate_visual(clip)),
        _looked("vggish", vggish.variant, lambda: locate_sound(vggish)[0]),
        _looked("xlmr", Path(xlmr.model).name, lambda: find_directory(xlmr.model, allow_hub=False)),
        _looked("fusion", "fusion-mlp", lambda: require_file(head.artefact / WEIGHTS_FILE)),
    ]


def _locate_visual(settings: ClipSettings) -> Path | str:
    if settings.model == "opennsfw":
        return locate_opennsfw(settings)
    if settings.model == "fake":
        return "no weights"
    return local_file(settings.checkpoint or "") or f"pretrained tag {settings.checkpoint!r}, from the hub's cache"


def _looked(node: str, model: str, locate: Callable[[], Path | str]) -> ModelFile:
    try:
        where = locate()
    except ModelError as error:
        return ModelFile(node, model, str(error), present=False)
    return ModelFile(node, model, str(where), present=True if isinstance(where, Path) else None)
