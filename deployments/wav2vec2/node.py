"""The livestream sound node without Ray: clips of many streams and languages in, scores out.

    clip -> checked -> voice gate, where it is on -> its language's model held in memory -> batch -> scores

Loading a model takes seconds, so it happens in a thread of its own, before the clip joins a batch: clips of languages
that are in memory go on meanwhile.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from deployments.runtime.batcher import BatchObserver
from deployments.runtime.errors import DeadlineExceeded, LanguageModelUnavailable
from deployments.runtime.health import Health
from deployments.runtime.node import EncoderNode, NodeSettings
from deployments.wav2vec2.classifier import LanguageModel
from deployments.wav2vec2.registry import make_classifier
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.wav2vec2.values import Clip, ClipScores

if TYPE_CHECKING:
    from deployments.wav2vec2.voice import Speech, VoiceGate

log = logging.getLogger(__name__)
_LOADERS = 2  # threads that load models: one language that waits for room leaves another one's load alone


class Wav2Vec2Node(EncoderNode[Clip, ClipScores]):
    """Raises MissingWeights, WrongWeights or ModelError from the constructor."""

    def __init__(self, settings: Wav2Vec2Settings, node: NodeSettings, observer: BatchObserver | None = None) -> None:
        self._classifier = make_classifier(settings)
        self._min_speech_s = settings.min_speech_s
        self._voice = _voice(settings)
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load")
        self._gate = ThreadPoolExecutor(1, thread_name_prefix="voice")
        self._loading: dict[str, asyncio.Lock] = {}
        self._failed: dict[str, float] = {}  # language of a model -> when its load failed; set by the threads
        self._retry_load_after_s = settings.retry_load_after_s
        super().__init__("wav2vec2", self._classifier, node, observer)
        self._health = Health(
            "wav2vec2", probe=self._probe, running_s=self._oldest_running_s, stuck_after_s=node.stuck_after_s
        )

    async def classify(self, clip: Clip, *, timeout_s: float | None = None) -> ClipScores:
        """The scores of one clip.

        Raises:
            InvalidInput: the clip is no finite float32 mono sound at 16 kHz of an acceptable length; says which.
            LanguageModelUnavailable: its language's model cannot be loaded.
            DeadlineExceeded: `timeout_s` passed before the clip's turn came.
            Overloaded, NodeUnavailable: as MicroBatcher.submit.
        """
        wrong = self._classifier.check(clip)
        if wrong is not None:
            raise wrong
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        speech = await self._heard(clip)
        if speech is not None and speech.speech_s < self._min_speech_s:
            return self._skipped(clip, speech)
        async with self._held(clip.language, _left(deadline)):
            result = await self._batcher.submit(clip, timeout_s=_left(deadline))
        return _with_speech(result, speech)

    async def encode(self, item: Clip, *, timeout_s: float | None = None) -> ClipScores:
        """The same as `classify`: every result names its own language's model."""
        return await self.classify(item, timeout_s=timeout_s)

    async def languages(self) -> Sequence[LanguageModel]:
        """Every language's model, whether it is in memory, and how well it agrees with fp32."""
        return self._classifier.languages()

    async def close(self) -> None:
        await super().close()
        self._loaders.shutdown(wait=False)
        self._gate.shutdown(wait=False)

    async def _probe(self) -> ClipScores:
        """A real pass over the example, in a language that is in memory."""
        clip = self._classifier.example()
        async with self._held(clip.language, None):
            return await self._batcher.submit(clip)

    async def _heard(self, clip: Clip) -> Speech | None:
        """None where the gate is off."""
        if self._voice is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._gate, self._voice.listen, clip.samples)

    def _skipped(self, clip: Clip, speech: Speech) -> ClipScores:
        route = self._classifier.route(clip.language)
        return ClipScores(
            probabilities=None,
            labels={},
            language=route.language,
            model_language=route.model_language,
            fallback=route.fallback,
            sound_s=clip.sound_s,
            duration_s=speech.duration_s,
            skipped="no_speech",
            speech_s=speech.speech_s,
            segments=speech.segments,
        )

    @asynccontextmanager
    async def _held(self, language: str | None, timeout_s: float | None) -> AsyncIterator[None]:
        """The language's model is in memory and stays there, within."""
        release = self._classifier.hold_resident(language)
        if release is None:
            try:
                async with asyncio.timeout(timeout_s):
                    release = await self._load(language, timeout_s)
            except TimeoutError:
                raise DeadlineExceeded from None
        try:
            yield
        finally:
            release()

    async def _load(self, language: str | None, timeout_s: float | None) -> Callable[[], None]:
        """One thread loads a language's model, however many clips wait for it."""
        own = self._classifier.route(language).model_language
        lock = self._loading.setdefault(own, asyncio.Lock())
        async with lock:
            release = self._classifier.hold_resident(language)  # another clip may have loaded it meanwhile
            if release is not None:
                return release
            if time.monotonic() - self._failed.get(own, float("-inf")) < self._retry_load_after_s:
                raise _unavailable(own)
            held = self._loaders.submit(self._hold, own, timeout_s)
            try:
                return await asyncio.wrap_future(held)
            except asyncio.CancelledError:
                held.add_done_callback(_give_back)  # nobody will use what the thread is about to hold
                raise

    def _hold(self, language: str, timeout_s: float | None) -> Callable[[], None]:
        """In a loader's thread: a failure is remembered, whether or not its caller still waits."""
        try:
            release = self._classifier.hold(language, timeout_s)
        except DeadlineExceeded:
            raise
        except Exception as error:
            log.exception("the model of the language %s cannot be loaded", language)
            self._failed[language] = time.monotonic()
            raise _unavailable(language) from error
        self._failed.pop(language, None)
        return release


def _unavailable(language: str) -> LanguageModelUnavailable:
    return LanguageModelUnavailable(
        f"The model of the language {language} cannot be loaded; the server's log says why."
    )


def _give_back(held: Future[Callable[[], None]]) -> None:
    if not held.cancelled() and held.exception() is None:
        held.result()()


def _left(deadline: float | None) -> float | None:
    """Seconds until then. Raises DeadlineExceeded where it has passed."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded
    return left


def _voice(settings: Wav2Vec2Settings) -> VoiceGate | None:
    if settings.voice_gate == "off":
        return None
    from deployments.wav2vec2.voice import VoiceGate

    return VoiceGate(settings.voice_threshold, settings.threads)


def _with_speech(result: ClipScores, speech: Speech | None) -> ClipScores:
    if speech is None:
        return result
    return dataclasses.replace(result, speech_s=speech.speech_s, segments=speech.segments)
