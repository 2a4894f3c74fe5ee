"""Labelled stand-in posts for the local profile, and the embeddings table made of them.

Texts are sentences written for this project (`phrases/`, five languages), pictures and sounds are generated. A post
has one to three modalities; the label shows in at least one of them (its `carriers`), the others are `safe`. No
sentence stands in two parts of the split: Tamil and Telugu are held out whole, and every sixth sentence of English,
Hindi and Bengali is kept for calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from deployments.fusion.artefact import TrainedOn
from deployments.fusion.dataset import CALIBRATE, HELDOUT, SPLITS, TRAIN, encoders_metadata
from deployments.fusion.features import MODALITIES
from deployments.fusion.stand_in_images import picture
from deployments.policy.policy import CATEGORIES, UNSAFE
from deployments.runtime.stand_in_sounds import sound
from deployments.runtime.values import Embeddings, Modality, TextEmbedding

NOTE = "trained on generated stand-ins: shows that the machinery works; its scores say nothing about real posts"
PHRASES = Path(__file__).with_name("phrases")
TRAIN_LANGUAGES, HELDOUT_LANGUAGES = ("en", "hi", "bn"), ("ta", "te")
SHARES = {TRAIN: 0.65, CALIBRATE: 0.12, HELDOUT: 0.23}
TAILS = ("", "", "", "", " 🙂", " #post", "!!", " …", " 👇")
SUBSETS = tuple(subset for size in (1, 2, 3) for subset in combinations(MODALITIES, size))

Result = TypeVar("Result")
EmbedFrames = Callable[[NDArray[np.uint8]], Embeddings | Exception]
EmbedSound = Callable[[NDArray[np.float32]], Embeddings | Exception]
EmbedTexts = Callable[[list[str]], Sequence[TextEmbedding | Exception]]


@dataclass(frozen=True)
class StandIn:
    post_id: str
    label: str
    split: str
    language: str | None
    carriers: tuple[Modality, ...]  # where the label shows; empty for a safe post
    text: str | None
    frames: NDArray[np.uint8] | None  # (n, 224, 224, 3)
    sound: NDArray[np.float32] | None  # (samples,) mono 16 kHz


@cache
def phrases(language: str) -> dict[str, tuple[str, ...]]:
    """Category -> sentences; `parts` -> safe sentences put together from parts, where the language has any."""
    table = yaml.safe_load((PHRASES / f"{language}.yaml").read_text(encoding="utf-8"))
    parts = table.get("safe_parts")
    together = product(parts["who"], parts["doing"], parts["where"]) if parts else ()
    composed = [parts["sentence"].format(who=who, doing=doing, where=where) for who, doing, where in together]
    return {category: tuple(table[category]) for category in CATEGORIES} | {"parts": tuple(composed)}


def sentences(language: str, kind: str, split: str) -> tuple[str, ...]:
    """The sentences of a category (or `parts`) a split may use; no sentence is in two splits."""
    every = phrases(language)[kind]
    if language in HELDOUT_LANGUAGES:
        return every if split == HELDOUT else ()
    return {CALIBRATE: every[::6], TRAIN: tuple(s for i, s in enumerate(every) if i % 6), HELDOUT: ()}[split]


def stand_in_posts(n: int, seed: int) -> Iterator[StandIn]:
    """n posts, each from a generator of its own, so that post i is the same whatever n is."""
    for number in range(n):
        yield _post(number, np.random.default_rng([seed, number]))


def _post(number: int, random: np.random.Generator) -> StandIn:
    split = str(random.choice(SPLITS, p=[SHARES[s] for s in SPLITS]))
    present = SUBSETS[int(random.integers(len(SUBSETS)))]
    label = "safe" if random.random() < 0.45 else str(random.choice(UNSAFE))
    carriers = _carriers(label, present, random)
    shown = {m: label if m in carriers else "safe" for m in present}
    language = str(random.choice(HELDOUT_LANGUAGES if split == HELDOUT else TRAIN_LANGUAGES))
    frames = wave = text = None
    if Modality.TEXT in shown:
        text = _text(language, shown[Modality.TEXT], split, random)
    if Modality.VISUAL in shown:
        count = 1 if random.random() < 0.5 else int(random.integers(2, 5))
        frames = np.stack([picture(shown[Modality.VISUAL], random) for _ in range(count)])
    if Modality.AUDIO in shown:
        wave = sound(shown[Modality.AUDIO], random.uniform(1.0, 4.0), random)
    return StandIn(f"stand-in-{number}", label, split, language if text else None, carriers, text, frames, wave)


def _carriers(label: str, present: tuple[Modality, ...], random: np.random.Generator) -> tuple[Modality, ...]:
    if label == "safe":
        return ()
    chosen = tuple(m for m in present if random.random() < 0.6)
    return chosen or (present[int(random.integers(len(present)))],)


def _text(language: str, category: str, split: str, random: np.random.Generator) -> str:
    """One sentence, or two of which at least one shows the category."""
    composed = sentences(language, "parts", split) if category == "safe" and random.random() < 0.25 else ()
    text = str(random.choice(composed or sentences(language, category, split)))
    if random.random() < 0.3:
        other = str(random.choice(sentences(language, "safe", split)))
        text = f"{text} {other}" if random.random() < 0.5 else f"{other} {text}"
    return text + str(random.choice(TAILS))


def make_stand_in_table(
    path: Path,
    embed_frames: EmbedFrames,
    embed_sound: EmbedSound,
    embed_texts: EmbedTexts,
    *,
    n: int = 2000,
    seed: int = 0,
    encoders: Mapping[Modality, TrainedOn] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Embed n stand-in posts and write the table (Parquet) that `train_fusion` reads; its metadata names `encoders`.

    What an encoder raises, or gives back as an error for one post, ends the whole: a table with holes would train a
    worse head in silence.
    """
    posts, rows = [], []
    for number, post in enumerate(stand_in_posts(n, seed), start=1):
        frames = None if post.frames is None else _good(embed_frames(post.frames)).vectors
        heard = None if post.sound is None else _good(embed_sound(post.sound)).vectors
        posts.append(post)
        rows.append((frames, heard))
        if progress is not None:
            progress(number, n)
    texts = _embedded_texts(sorted({post.text for post in posts if post.text is not None}), embed_texts)
    _write(path, posts, rows, texts, encoders)
    return path


def _embedded_texts(texts: list[str], embed: EmbedTexts, batch: int = 32) -> dict[str, NDArray[np.float32]]:
    vectors: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        for text, result in zip(part, embed(part), strict=True):
            vectors[text] = _good(result).vector
    return vectors


def _good(result: Result | Exception) -> Result:
    if isinstance(result, Exception):
        raise result
    return result


def _write(
    path: Path,
    posts: Sequence[StandIn],
    rows: Sequence[tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]],
    texts: dict[str, NDArray[np.float32]],
    encoders: Mapping[Modality, TrainedOn] | None,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vector = pa.list_(pa.float32())
    columns = {
        "post_id": pa.array([p.post_id for p in posts]),
        "label": pa.array([p.label for p in posts]),
        "split": pa.array([p.split for p in posts]),
        "language": pa.array([p.language for p in posts], pa.string()),
        "carriers": pa.array([list(map(str, p.carriers)) for p in posts], pa.list_(pa.string())),
        "visual": pa.array([None if f is None else f.mean(axis=0) for f, _ in rows], vector),
        "audio": pa.array([None if a is None else a.mean(axis=0) for _, a in rows], vector),
        "text": pa.array([None if p.text is None else texts[p.text] for p in posts], vector),
        "frames": pa.array([None if f is None else list(f) for f, _ in rows], pa.list_(vector)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, metadata=encoders_metadata(encoders) if encoders else None), path)
