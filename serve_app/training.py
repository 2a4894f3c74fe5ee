"""Training the fusion head: the encoders of a configuration make a table of embeddings, the table makes a head.

`python -m serve_app.training OUTPUT` trains the local profile's head anew from stand-in posts.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.progress import Progress

from deployments.clip.registry import make_encoder as make_visual_encoder
from deployments.fusion.artefact import TrainedOn
from deployments.fusion.dataset import read_encoders
from deployments.fusion.stand_ins import NOTE, make_stand_in_table
from deployments.fusion.train import TrainProgress, TrainResult, TrainSettings, train_fusion
from deployments.runtime.errors import InvalidInput
from deployments.runtime.values import Modality, ModelCard
from deployments.vggish.examples import SoundItem
from deployments.vggish.registry import make_encoder as make_sound_encoder
from deployments.xlmr.registry import make_encoder as make_text_encoder
from serve_app.config import AppConfig
from serve_app.embedding_table import embed_posts, holds_raw_posts, trained_on

UNKNOWN_ENCODERS = "its table does not say which encoders made it: only the dimensions of vectors are checked"

# Small enough to be committed; much noise and a slow rate, because there are few sentences and they are learned fast.
STAND_IN_TRAINING = TrainSettings(
    output=Path(),
    replace=True,
    hidden=(128, 64),
    learning_rate=3e-4,
    weight_decay=0.1,
    dropout=0.3,
    noise=1.0,
    note=NOTE,
)


def embed_stand_ins(
    config: AppConfig, table: Path, n: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> dict[Modality, TrainedOn]:
    """Write a table of n stand-in posts, embedded by the configuration's encoders; says which those were.

    Raises MissingWeights or WrongWeights.
    """
    visual = make_visual_encoder(config.clip.encoder)
    sound = make_sound_encoder(config.vggish.encoder)
    text = make_text_encoder(config.xlmr.encoder)
    for encoder in (visual, sound, text):
        encoder.load()
    encoders = trained_on({Modality.VISUAL: visual.card, Modality.AUDIO: sound.card, Modality.TEXT: text.card})
    make_stand_in_table(
        table,
        lambda frames: visual.encode([frames])[0],
        lambda samples: sound.encode([SoundItem(samples)])[0],
        text.encode,
        n=n,
        seed=seed,
        encoders=encoders,
        progress=progress,
    )
    return encoders


def train_stand_in_head(config: AppConfig, output: Path, n: int = 3600, seed: int = 0) -> TrainResult:
    """The head that ships with the local profile. Shows a progress bar; replaces what stands in `output`."""
    with tempfile.TemporaryDirectory() as folder, Progress() as bars:
        table = Path(folder) / "stand-ins.parquet"
        embedding = bars.add_task("Embedding stand-in posts", total=n)
        encoders = embed_stand_ins(config, table, n, seed, lambda done, _: bars.update(embedding, completed=done))
        settings = STAND_IN_TRAINING.model_copy(update={"output": output, "encoders": encoders, "seed": seed})
        training = bars.add_task("Training the head", total=settings.epochs)

        def show(step: TrainProgress) -> None:
            bars.update(training, completed=step.epoch)

        return train_fusion(table, settings, show)


def train_from_table(
    config: AppConfig, table: Path, output: Path, *, replace: bool = False, epochs: int = 30, seed: int = 0
) -> TrainResult:
    """`parakh train-fusion`: raw posts are embedded first, cached embeddings are taken as they are.

    A table that says which encoders made it must name the configuration's. One that does not (a cache of the user's
    own) makes a head whose card names no encoder either.

    Raises DatasetError for a bad table, InvalidInput for an output that is taken or a table of other encoders,
    ModelError for a missing model.
    """
    with tempfile.TemporaryDirectory() as folder, Progress() as bars:
        if holds_raw_posts(table):
            embedding = bars.add_task("Embedding posts", total=None)
            cached = Path(folder) / "embeddings.parquet"
            told = asyncio.run(
                embed_posts(config, table, cached, lambda done, n: bars.update(embedding, completed=done, total=n))
            )
            bars.console.print(f"{told.rows} posts embedded; left out: {dict(told.left_out) or 'none'}")
            table = cached
        configured = trained_on(loaded_cards(config))
        recorded = read_encoders(table)
        check_same_encoders(table, recorded, configured)
        settings = TrainSettings(
            output=output,
            replace=replace,
            encoders=configured if recorded else {},
            dimensions={m: encoder.dimension for m, encoder in configured.items()},
            epochs=epochs,
            seed=seed,
            note="" if recorded else UNKNOWN_ENCODERS,
        )
        training = bars.add_task("Training the head", total=epochs)
        return train_fusion(table, settings, lambda step: bars.update(training, completed=step.epoch))


def check_same_encoders(
    table: Path, recorded: Mapping[Modality, TrainedOn], configured: Mapping[Modality, TrainedOn]
) -> None:
    """Raises InvalidInput at the first encoder of the table that the configuration does not run."""
    for modality, made in recorded.items():
        runs = configured[modality]
        if made != runs:
            raise InvalidInput(
                f"{table}: its {modality} vectors were made by {made.name} {made.version}, but this configuration runs "
                f"{runs.name} {runs.version}. Embed the posts anew, or train with the configuration that made them."
            )


def loaded_cards(config: AppConfig) -> dict[Modality, ModelCard]:
    """The cards of the configuration's encoders. Raises MissingWeights or WrongWeights."""
    visual = make_visual_encoder(config.clip.encoder)
    sound = make_sound_encoder(config.vggish.encoder)
    text = make_text_encoder(config.xlmr.encoder)
    for encoder in (visual, sound, text):
        encoder.load()
    return {Modality.VISUAL: visual.card, Modality.AUDIO: sound.card, Modality.TEXT: text.card}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="directory of the artefact")
    parser.add_argument("--models-dir", type=Path, default=None, help="where `parakh models prepare` put the models")
    parser.add_argument("--posts", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    config = AppConfig(profile="local", **({"models_dir": given.models_dir} if given.models_dir else {}))
    print(train_stand_in_head(config, given.output, given.posts, given.seed).table)


if __name__ == "__main__":
    main()
