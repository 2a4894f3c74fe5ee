"""`parakh models`: what a profile's models are, where their weights lie, and making the ones that are made here."""

from __future__ import annotations

from collections.abc import Callable

from deployments.clip.registry import make_encoder as make_visual_encoder
from deployments.vggish.registry import make_encoder as make_sound_encoder
from deployments.xlmr.prepare import prepare_local
from deployments.xlmr.settings import make_encoder as make_text_encoder
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
    """One node's model: what it is, where its weights are or should be, and whether they are there."""

    node: str
    model: str
    where: str
    present: bool


def inventory(config: AppConfig) -> list[ModelFile]:
    """Looks at files only; `parakh doctor` loads them."""
    clip, vggish, xlmr = config.clip.encoder, config.vggish.encoder, config.xlmr.encoder
    looks: list[tuple[str, str, Callable[[], Path]]] = [
        ("clip", clip.model, lambda: locate_visual(clip)),
        ("vggish", vggish.variant, lambda: locate_sound(vggish)),
        ("xlmr", xlmr.model, lambda: locate_text(xlmr)),
        ("fusion", "fusion-mlp", lambda: locate_head(config.fusion.head)),
    ]
    return [_looked(node, model, locate) for node, model, locate in looks]


def _looked(node: str, model: str, locate: Callable[[], Path]) -> ModelFile:
    try:
        return ModelFile(node, model, str(locate()), present=True)
    except ModelError as error:
        return ModelFile(node, model, str(error), present=False)
