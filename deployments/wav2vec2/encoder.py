"""The classifiers of all languages as one: clips in, probabilities of the seven categories out.

`load` opens every checkpoint and keeps the heads; trunks, which are nearly all of the memory, are loaded when they are
needed, and stay while there is room (`resident.py`). Languages whose trunks are the same tensors share one.

    clip -> its language's checkpoint -> prepared -> trunk, one pass for all clips of a batch -> own head -> categories
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deployments.runtime.errors import InvalidInput, NodeUnavailable, ParakhError
from deployments.runtime.values import SAMPLE_RATE_HZ, ModelCard
from deployments.wav2vec2.agreement import Agreement
from deployments.wav2vec2.checkpoint import Checkpoint, open_checkpoint
from deployments.wav2vec2.classifier import LanguageModel
from deployments.wav2vec2.head import Head, make_head, softmax
from deployments.wav2vec2.loading import LoadedTrunk, load_trunk
from deployments.wav2vec2.preprocess import prepare
from deployments.wav2vec2.resident import ResidentModels, Residents
from deployments.wav2vec2.routing import Route, Router
from deployments.wav2vec2.runtimes import Rows, resident_bytes
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.values import Clip, ClipScores, invalid_reason

_LOUDEST = 2.0  # decoded sound lies within -1..1; resampling may overshoot a little


class _Language(NamedTuple):
    checkpoint: Checkpoint
    head: Head


class Wav2Vec2Classifier:
    """ClipClassifier over Hugging Face checkpoints."""

    def __init__(self, settings: Wav2Vec2Settings) -> None:
        self._settings = settings
        self._router = Router(settings.models, settings.default)
        self._languages: dict[str, _Language] = {}
        self._trunks: ResidentModels[str, LoadedTrunk]
        self._agreements: dict[str, Agreement] = {}  # by trunk, of its last load

    @property
    def card(self) -> ModelCard:
        """The default language's."""
        return self._ready()[self._settings.default].checkpoint.card

    def load(self) -> None:
        """Raises MissingWeights, WrongWeights or ModelError for any language's checkpoint, naming it."""
        opened = {model: _open(model, self._settings) for model in dict.fromkeys(self._settings.models.values())}
        self._languages = {tag: opened[model] for tag, model in self._settings.models.items()}
        sizes = {own.checkpoint.trunk: resident_bytes(own.checkpoint.config, self._settings) for own in opened.values()}
        heads = sum(own.head.bytes for own in opened.values())
        self._trunks = ResidentModels(self._settings.cache_bytes - heads, sizes.__getitem__, self._load_trunk)
        self._preload(sizes)

    def example(self) -> Clip:
        """In a language whose model is in memory, so that a health probe loads nothing."""
        used = self._trunks.state().keys[-1:]
        tags = [tag for tag, language in self._ready().items() if language.checkpoint.trunk in used]
        tag = self._settings.default if self._settings.default in tags or not tags else tags[0]
        return Clip(np.zeros(SAMPLE_RATE_HZ, np.float32), tag)

    def weight(self, item: Clip) -> int:
        return 1

    def bucket(self, item: Clip) -> Hashable:
        """On a GPU, clips of one trunk. On a CPU each is a batch of its own, so that none waits for another's end."""
        return object() if self._settings.device == "cpu" else self._language_of(item).checkpoint.trunk

    def check(self, clip: object) -> InvalidInput | None:
        said = clip.language if isinstance(clip, Clip) and isinstance(clip.language, str) else None
        least = self._ready()[self._router(said).model_language].checkpoint.min_samples
        return invalid_reason(clip, self._settings.max_clip_s, least)

    def route(self, language: str | None) -> Route:
        return self._router(language)

    def hold_resident(self, language: str | None) -> Callable[[], None] | None:
        lease = self._trunks.use_resident(self._trunk_of(language))
        return None if lease is None else lease.release

    def hold(self, language: str | None, timeout_s: float | None = None) -> Callable[[], None]:
        return self._trunks.use(self._trunk_of(language), timeout_s).release

    def languages(self) -> Sequence[LanguageModel]:
        resident = set(self._trunks.state().keys)
        return [self._described(tag, language, resident) for tag, language in self._ready().items()]

    def memory(self) -> Residents[str]:
        """Which trunks are in memory, by digest, and what they take."""
        return self._trunks.state()

    def encode(self, items: Sequence[Clip]) -> Sequence[ClipScores | Exception]:
        """Clips of several languages: each trunk runs once over all of its clips."""
        results: list[ClipScores | Exception | None] = [self.check(item) for item in items]
        by_trunk: dict[str, list[int]] = {}
        for at, item in enumerate(items):
            if results[at] is None:
                by_trunk.setdefault(self._language_of(item).checkpoint.trunk, []).append(at)
        for trunk, places in by_trunk.items():
            judged = self._judge(trunk, [items[at] for at in places])
            for at, result in zip(places, judged, strict=True):
                results[at] = result
        return [result for result in results if result is not None]

    def _judge(self, trunk: str, clips: Sequence[Clip]) -> Sequence[ClipScores | Exception]:
        lease = self._trunks.pin(trunk)
        if lease is None:  # only where its caller went away and gave the model back
            return [NodeUnavailable("The clip's language model is not in memory.")] * len(clips)
        with lease as loaded:
            started = time.perf_counter()
            normal = [prepare(clip.samples, self._language_of(clip).checkpoint.do_normalize) for clip in clips]
            rows = loaded.runtime(normal)
            duration_s = (time.perf_counter() - started) / len(clips)
        return [self._scores(clip, found, duration_s) for clip, found in zip(clips, rows, strict=True)]

    def _scores(self, clip: Clip, rows: Rows, duration_s: float) -> ClipScores | Exception:
        """Sound that overflows the model is its sender's fault; whatever else gives no number is the server's.

        That is told of this clip alone: NodeUnavailable would have it tried for ever, in front of all others.
        """
        route = self._router(clip.language)
        checkpoint, head = self._ready()[route.model_language]
        logits = head(rows)
        if not np.isfinite(logits).all():
            if np.abs(clip.samples).max() > _LOUDEST:
                return InvalidInput("The clip's sound is far outside -1..1.")
            return ParakhError("The model gave a number that is not finite for this clip.")
        probabilities = softmax(logits)
        return ClipScores(
            probabilities=checkpoint.label_map(probabilities),
            labels=dict(zip(checkpoint.label_map.labels, map(float, probabilities), strict=True)),
            language=route.language,
            model_language=route.model_language,
            fallback=route.fallback,
            sound_s=clip.sound_s,
            duration_s=duration_s,
            model=checkpoint.card,
        )

    def _preload(self, sizes: Mapping[str, int]) -> None:
        """The default's model, and then, where asked for, the others as long as they fit."""
        first = self._ready()[self._settings.default].checkpoint.trunk
        self._trunks.use(first).release()
        if self._settings.preload == "default":
            return
        for language in self._ready().values():
            state = self._trunks.state()
            trunk = language.checkpoint.trunk
            if trunk not in state.keys and state.bytes + sizes[trunk] <= state.budget_bytes:
                self._trunks.use(trunk).release()

    def _load_trunk(self, trunk: str) -> LoadedTrunk:
        sharing = [language for language in self._ready().values() if language.checkpoint.trunk == trunk]
        loaded = load_trunk(sharing[0].checkpoint, [(own.head, own.checkpoint) for own in sharing], self._settings)
        self._agreements[trunk] = loaded.agreement
        return loaded

    def _trunk_of(self, language: str | None) -> str:
        return self._ready()[self._router(language).model_language].checkpoint.trunk

    def _language_of(self, clip: Clip) -> _Language:
        return self._ready()[self._router(clip.language).model_language]

    def _described(self, tag: str, language: _Language, resident: set[str]) -> LanguageModel:
        trunk = language.checkpoint.trunk
        agreement = self._agreements.get(trunk)
        others = [other for other, own in self._ready().items() if own.checkpoint.trunk == trunk and other != tag]
        return LanguageModel(
            language=tag,
            card=language.checkpoint.card,
            resident=trunk in resident,
            shares_trunk_with=tuple(others),
            agreement=None if agreement is None else agreement.cosine,
            score_shift=None if agreement is None else agreement.score_shift,
        )

    def _ready(self) -> dict[str, _Language]:
        if not self._languages:
            raise RuntimeError("load() must be called first")
        return self._languages


def _open(model: str, settings: Wav2Vec2Settings) -> _Language:
    checkpoint = open_checkpoint(model, settings)
    return _Language(checkpoint, make_head(checkpoint.head_state()))
