"""What happens to a post: media and text are encoded side by side, fused, decided, and told as a verdict.

In: a Post, its media as bytes or URL. Out: a Verdict. No Ray here: the nodes come through NodeHandles.
A modality that is missing or fails becomes a ModalityStatus; only media that is refused at the door, or a post
of which nothing at all could be judged, raises. A call that died with its replica is asked once more, as every
encoder call is idempotent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from deployments.fusion.head import FusionInput, FusionOutput
from deployments.policy.policy import Policy
from deployments.runtime.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    NodeUnavailable,
    NotFound,
    Overloaded,
    ParakhError,
    UndecodableMedia,
)
from deployments.runtime.values import (
    MISSING,
    DecodedMedia,
    Embeddings,
    Modality,
    ModalityStatus,
    ModelCard,
    NodeStatus,
    Status,
    TextEmbedding,
)
from serve_app.language import identify_language
from serve_app.nodes import Decoded, NodeHandles
from serve_app.posts import (
    Decision,
    EvidenceReport,
    LanguageReport,
    MediaSource,
    ModalityReport,
    ModelReport,
    Post,
    SegmentReport,
    Verdict,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class _Judged:
    """What is known of one post while it passes through."""

    media: DecodedMedia | None = None
    frames: Embeddings | None = None
    sound: Embeddings | None = None
    text: TextEmbedding | None = None
    statuses: dict[Modality, ModalityStatus] = field(default_factory=lambda: dict.fromkeys(Modality, MISSING))
    errors: list[Exception] = field(default_factory=list)  # of the encoders that failed
    models: dict[str, ModelReport] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[step] = round(time.perf_counter() - started, 4)


class Pipeline:
    """The moderator behind every door: HTTP, jobs, command line."""

    def __init__(self, nodes: NodeHandles, policy: Policy) -> None:
        self._nodes = nodes
        self._policy = policy
        self._models: dict[str, ModelReport] = {}

    @property
    def policy(self) -> Policy:
        return self._policy

    async def moderate(
        self,
        post: Post,
        media: MediaSource | None,
        *,
        deadline_s: float | None = None,
        wait_for_nodes: bool = False,
    ) -> Verdict:
        """Judge one post. With `wait_for_nodes` a modality whose node is down raises instead of being left out:
        for callers that can try again later.

        Raises:
            TooLarge, UnsupportedMedia, UrlRefused, FetchFailed: the media was refused at the door.
            UndecodableMedia: nothing of the post can be judged, and asking again would not help.
            InvalidInput: there is nothing to judge.
            Overloaded: a node's queue is full.
            NodeUnavailable: every modality failed for want of a node, or fusion did.
            DeadlineExceeded: `deadline_s` passed.
        """
        try:
            async with asyncio.timeout(deadline_s):
                return await self._moderate(post, media, wait_for_nodes)
        except TimeoutError:
            raise DeadlineExceeded from None

    async def embed_texts(self, model: str, texts: list[str]) -> list[TextEmbedding]:
        """`model`: "xlmr", or "clip-text" where the profile's visual encoder has a joint space (else NotFound)."""
        encoders = {"xlmr": self._nodes.encode_text, "clip-text": self._nodes.encode_joint_text}
        if model not in encoders:
            raise NotFound(f"There is no text encoder named {model!r}.")
        encode = encoders[model]
        return list(await asyncio.gather(*(_retried(partial(encode, text)) for text in texts)))

    async def embed_images(self, images: list[bytes]) -> list[Embeddings]:
        return list(await asyncio.gather(*(self._embed_image(image) for image in images)))

    async def status(self) -> list[NodeStatus]:
        statuses = await self._nodes.status()
        for status in statuses:
            if status.model is not None:
                self._models[status.node] = _model_report(status.model)
        return statuses

    def models(self) -> Mapping[str, ModelReport]:
        """Models seen so far in statuses and results, by node."""
        return self._models

    async def _moderate(self, post: Post, media: MediaSource | None, wait_for_nodes: bool) -> Verdict:
        caption = (post.caption or "").strip()
        if media is None and not caption:
            raise InvalidInput("The post has neither media nor a caption to judge.", param="caption")
        judged = _Judged()
        async with _together() as judging:
            judging.create_task(self._judge_media(media, judged, bool(caption)))
            judging.create_task(self._judge_text(caption, judged))
        down = next((error for error in judged.errors if isinstance(error, NodeUnavailable)), None)
        nothing_left = not any(status.usable for status in judged.statuses.values())
        if down is not None and (wait_for_nodes or nothing_left):
            raise down
        if nothing_left:
            raise _nothing_left(judged)
        with judged.timed("fusion"):
            output, card = await _retried(
                lambda: self._nodes.fuse(FusionInput(frames=judged.frames, sound=judged.sound, text=judged.text))
            )
        judged.models["fusion"] = _model_report(card)
        self._models.update(judged.models)
        return self._verdict(post, caption, judged, output)

    async def _judge_media(self, media: MediaSource | None, judged: _Judged, has_text: bool) -> None:
        if media is None:
            return
        try:
            with judged.timed("media"):
                decoded = await _retried(lambda: self._nodes.decode(media))
        except UndecodableMedia as error:
            if not has_text:
                raise
            judged.statuses[Modality.VISUAL] = ModalityStatus(Status.FAILED, reason=str(error))
            return
        judged.media = decoded.media
        judged.statuses[Modality.VISUAL] = decoded.media.visual
        judged.statuses[Modality.AUDIO] = decoded.media.audio
        async with _together() as judging:
            judging.create_task(self._judge_frames(decoded, judged))
            judging.create_task(self._judge_sound(decoded, judged))

    async def _judge_frames(self, decoded: Decoded, judged: _Judged) -> None:
        if decoded.frames is None:
            return
        frames = await self._encoded(
            "clip", Modality.VISUAL, judged, lambda: self._nodes.encode_frames(decoded.frames), decoded.media.visual
        )
        times_s = decoded.media.frame_times_s
        if (
            frames is not None
            and frames.times_s is None
            and times_s is not None
            and len(frames.vectors) == len(times_s)
        ):
            frames = dataclasses.replace(frames, times_s=times_s)  # one vector per frame; a video encoder sets its own
        judged.frames = frames

    async def _judge_sound(self, decoded: Decoded, judged: _Judged) -> None:
        if decoded.sound is None:
            return
        judged.sound = await self._encoded(
            "vggish",
            Modality.AUDIO,
            judged,
            lambda: self._nodes.encode_sound(decoded.sound, decoded.media.sound_blocks),
            decoded.media.audio,
        )

    async def _judge_text(self, caption: str, judged: _Judged) -> None:
        if not caption:
            return
        ok = ModalityStatus(Status.OK)
        judged.text = await self._encoded("xlmr", Modality.TEXT, judged, lambda: self._nodes.encode_text(caption), ok)
        if judged.text is not None:
            judged.statuses[Modality.TEXT] = ModalityStatus(
                Status.OK, tokens=judged.text.tokens, truncated=judged.text.truncated
            )

    async def _encoded(
        self,
        node: str,
        modality: Modality,
        judged: _Judged,
        encode: Callable[[], Awaitable[T]],
        status_if_ok: ModalityStatus,
    ) -> T | None:
        """The encoder's result, or None and a failed modality that says why."""
        try:
            with judged.timed(node):
                result = await _retried(encode)
        except (Overloaded, ModelError):  # the whole post can wait; a model that cannot load is no fault of the post
            raise
        except ParakhError as error:
            judged.errors.append(error)
            judged.statuses[modality] = ModalityStatus(Status.FAILED, reason=f"{node}: {error}")
            return None
        except Exception as error:  # a poisoned input must cost its own modality, not the post
            logger.exception("%s failed on one input", node)
            judged.errors.append(error)
            judged.statuses[modality] = ModalityStatus(Status.FAILED, reason=f"{node}: failed on this input")
            return None
        judged.statuses[modality] = status_if_ok
        card: ModelCard | None = getattr(result, "model", None)
        if card is not None:
            judged.models[node] = _model_report(card)
        return result

    async def _embed_image(self, image: bytes) -> Embeddings:
        decoded = await _retried(lambda: self._nodes.decode(MediaSource(data=image)))
        if decoded.frames is None:
            raise UndecodableMedia("The input is not an image.")
        return await _retried(lambda: self._nodes.encode_frames(decoded.frames))

    def _verdict(self, post: Post, caption: str, judged: _Judged, output: FusionOutput) -> Verdict:
        language = _language(post, caption)
        decided = self._policy.decide(
            output.category_scores,
            language.tag if language else None,
            judged.statuses,
            segments=[(segment.category, segment.score) for segment in output.segments],
        )
        now = datetime.now(UTC)
        return Verdict(
            post_id=post.post_id,
            revision=post.revision,
            nsfw_score=output.nsfw_score,
            category_scores=output.category_scores,
            severity={n: self._policy.severity_of(s) for n, s in output.category_scores.items() if n != "safe"},
            created_at=post.created_at,
            decided_at=now,
            age_s=max(0.0, (now - post.created_at).total_seconds()),
            language=language,
            decision=Decision(
                action=decided.action,
                category=decided.category,
                threshold=decided.threshold,
                policy_version=decided.policy_version,
                reason=decided.reason,
            ),
            modalities={m: ModalityReport(**dataclasses.asdict(s)) for m, s in judged.statuses.items()},
            segments=[SegmentReport(**dataclasses.asdict(segment)) for segment in output.segments],
            evidence=_evidence(judged.frames),
            models=judged.models,
            media_sha256=judged.media.sha256 if judged.media else None,
            timings_s=judged.timings_s,
        )


async def _retried(call: Callable[[], Awaitable[T]]) -> T:
    """Ask once more where the replica died under the call."""
    try:
        return await call()
    except NodeUnavailable:
        return await call()


@asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup whose first error comes out as itself; the tasks beside it are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _with_times(frames: Embeddings, times_s: NDArray[np.float32] | None) -> Embeddings:
    """One vector a frame gets the frames' times; an encoder of whole clips has set its own."""
    if frames.times_s is None and times_s is not None and len(frames.vectors) == len(times_s):
        return dataclasses.replace(frames, times_s=times_s)
    return frames


def _nothing_left(judged: _Judged) -> ParakhError:
    """Nodes are well, and still nothing could be judged: the post's own fault, so that nobody asks again for ever."""
    refused = next((error for error in judged.errors if isinstance(error, InvalidInput)), None)
    if refused is not None:
        return refused
    reasons = "; ".join(f"{m}: {s.reason}" for m, s in judged.statuses.items() if s.status is Status.FAILED)
    if reasons:
        return UndecodableMedia(f"Nothing of the post can be judged ({reasons}).")
    return UndecodableMedia("The media holds neither pictures nor sound, and there is no caption.")


def _language(post: Post, caption: str) -> LanguageReport | None:
    if post.language is not None:
        return LanguageReport(tag=post.language, identified=False)
    return identify_language(caption) if caption else None


def _evidence(frames: Embeddings | None) -> list[EvidenceReport]:
    if frames is None:
        return []
    reports = []
    for name, values in frames.evidence.items():
        peak = int(np.argmax(values))
        at_s = None if frames.times_s is None else float(frames.times_s[peak])
        reports.append(EvidenceReport(name=name, max=float(values[peak]), mean=float(np.mean(values)), at_s=at_s))
    return reports


def _model_report(card: ModelCard) -> ModelReport:
    return ModelReport(name=card.name, version=card.version, weights=card.weights, note=card.note)
