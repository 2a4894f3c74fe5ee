"""What happens to a post: media and text are encoded side by side, fused and searched, decided, told as a verdict.

In: a Post, its media as bytes or URL. Out: a Judgement: the Verdict, and what the index is to be told of the post.
Bytes that stand on a hash list, or that were judged before, need no encoder (`lookup.py`). No Ray here: the nodes
come through NodeHandles.
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
from deployments.policy.policy import Policy, PolicyDecision
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
from deployments.similarity.content import Content
from serve_app.contents import content_of, fact_of
from serve_app.judgement import Judgement
from serve_app.language import identify_language
from serve_app.lookup import Found, Known, Lookup, reuse_of, reused_matches
from serve_app.nodes import Decoded, NodeHandles
from serve_app.posts import (
    Decision,
    EvidenceReport,
    LanguageReport,
    MatchReport,
    MediaSource,
    ModalityReport,
    ModelReport,
    Post,
    SegmentReport,
    SimilarityReport,
    Verdict,
)
from serve_app.similarity import Digests

logger = logging.getLogger(__name__)

T = TypeVar("T")

NOT_JUDGED = "not judged: its bytes stand on a list of known-bad content"


@dataclass
class _Judged:
    """What is known of one post while it passes through."""

    listed: list[MatchReport] = field(default_factory=list)  # entries of hash lists that its bytes stand on
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

    def __init__(self, nodes: NodeHandles, policy: Policy, lookup: Lookup | None = None) -> None:
        self._nodes = nodes
        self._policy = policy
        self._lookup = lookup or Lookup(None)
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
        """The verdict of `judge`, for doors that index nothing."""
        return (await self.judge(post, media, deadline_s=deadline_s, wait_for_nodes=wait_for_nodes)).verdict

    async def judge(
        self,
        post: Post,
        media: MediaSource | None,
        *,
        deadline_s: float | None = None,
        wait_for_nodes: bool = False,
    ) -> Judgement:
        """Judge one post. With `wait_for_nodes` a node that is down raises, instead of its modality or the search
        for matches being left out: for callers that can try again later.

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
                return await self._judge(post, media, wait_for_nodes)
        except TimeoutError:
            raise DeadlineExceeded from None

    async def describe(self, post: Post, media: MediaSource | None) -> Content:
        """What the index would be told of the post: encoded, but neither judged nor looked up.

        Raises as `judge`; NodeUnavailable where a node that is needed is down.
        """
        caption = (post.caption or "").strip()
        judged = await self._encode(media, caption, wait_for_nodes=True)
        return _content(post, caption, judged)

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

    async def _judge(self, post: Post, media: MediaSource | None, wait_for_nodes: bool) -> Judgement:
        caption = (post.caption or "").strip()
        if media is None and not caption:
            raise InvalidInput("The post has neither media nor a caption to judge.", param="caption")
        known = await self._known(post, media)
        if known.error is not None and wait_for_nodes:
            raise known.error
        if known.listed:
            return Judgement(self._known_bad_verdict(post, caption, known.listed, known.sha256))
        if known.original is not None and self._same_models(known.original):
            return self._reused(post, known.original)
        judged = await self._encode(media, caption, wait_for_nodes)
        if judged.listed:
            sha256 = judged.media.sha256 if judged.media else None
            return Judgement(self._known_bad_verdict(post, caption, judged.listed, sha256))
        content = _content(post, caption, judged)
        async with _together() as working:
            search = working.create_task(self._search(content, judged))
            fusing = working.create_task(self._fuse(judged))
        found, output = search.result(), fusing.result()
        if wait_for_nodes and isinstance(found.error, NodeUnavailable | Overloaded):
            raise found.error
        return Judgement(self._verdict(post, caption, judged, output, found), content)

    async def _known(self, post: Post, media: MediaSource | None) -> Known:
        if media is None or media.data is None:
            return Known()
        return await self._lookup.known(post, media.data, self._policy.version)

    async def _encode(self, media: MediaSource | None, caption: str, wait_for_nodes: bool) -> _Judged:
        judged = _Judged()
        async with _together() as judging:
            judging.create_task(self._judge_media(media, judged, bool(caption)))
            judging.create_task(self._judge_text(caption, judged))
        if judged.listed:
            return judged
        down = next((error for error in judged.errors if isinstance(error, NodeUnavailable)), None)
        nothing_left = not any(status.usable for status in judged.statuses.values())
        if down is not None and (wait_for_nodes or nothing_left):
            raise down
        if nothing_left:
            raise _nothing_left(judged)
        return judged

    async def _search(self, content: Content, judged: _Judged) -> Found:
        with judged.timed("similarity"):
            return await self._lookup.matches(content)

    async def _fuse(self, judged: _Judged) -> FusionOutput:
        with judged.timed("fusion"):
            output, card = await _retried(
                lambda: self._nodes.fuse(FusionInput(frames=judged.frames, sound=judged.sound, text=judged.text))
            )
        judged.models["fusion"] = _model_report(card)
        self._models.update(judged.models)
        return output

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
        if media.data is None:  # its bytes were never here: only now are their digests known
            known = decoded.media
            judged.listed = (await self._lookup.listed(Digests(known.md5, known.sha1, known.sha256))).listed
            if judged.listed:
                return
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
        judged.frames = None if frames is None else _with_times(frames, decoded.media.frame_times_s)

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

    def _verdict(self, post: Post, caption: str, judged: _Judged, output: FusionOutput, found: Found) -> Verdict:
        language = _language(post, caption)
        decided = self._policy.decide(
            output.category_scores,
            language.tag if language else None,
            judged.statuses,
            segments=[(segment.category, segment.score) for segment in output.segments],
        )
        decided = self._policy.with_matches(decided, [fact_of(match, found.actions) for match in found.matches])
        if found.status.status == "failed":
            decided = self._policy.without_search(decided)
        now = datetime.now(UTC)
        return Verdict(
            post_id=post.post_id,
            revision=post.revision,
            nsfw_score=output.nsfw_score,
            category_scores=output.category_scores,
            severity=self._severity(output.category_scores),
            created_at=post.created_at,
            decided_at=now,
            age_s=_age_s(post, now),
            language=language,
            decision=_decision(decided),
            modalities={m: ModalityReport(**dataclasses.asdict(s)) for m, s in judged.statuses.items()},
            segments=[SegmentReport(**dataclasses.asdict(segment)) for segment in output.segments],
            evidence=_evidence(judged.frames),
            matches=found.matches,
            similarity=found.status,
            models=judged.models,
            media_sha256=judged.media.sha256 if judged.media else None,
            timings_s=judged.timings_s,
        )

    def _known_bad_verdict(self, post: Post, caption: str, listed: list[MatchReport], sha256: str | None) -> Verdict:
        """No model has looked: the scores are what the policy says that known-bad content counts as."""
        scores = self._policy.known_bad_scores()
        now = datetime.now(UTC)
        skipped = {Modality.TEXT} if caption else set()
        skipped |= {Modality.AUDIO} if post.content_type == "audio" else {Modality.VISUAL}
        return Verdict(
            post_id=post.post_id,
            revision=post.revision,
            nsfw_score=1 - scores["safe"],
            category_scores=scores,
            severity=self._severity(scores),
            created_at=post.created_at,
            decided_at=now,
            age_s=_age_s(post, now),
            language=_language(post, caption),
            decision=_decision(self._policy.known_bad([fact_of(match, {}) for match in listed])),
            modalities={
                m: ModalityReport(status=Status.MISSING, reason=NOT_JUDGED if m in skipped else None) for m in Modality
            },
            segments=[],
            evidence=[],
            matches=listed,
            similarity=SimilarityReport(status="ok"),
            models={},
            media_sha256=sha256,
        )

    def _reused(self, post: Post, original: Verdict) -> Judgement:
        self._lookup.reused()
        now = datetime.now(UTC)
        reuse = reuse_of(original)
        verdict = original.model_copy(
            update={
                "post_id": post.post_id,
                "revision": post.revision,
                "created_at": post.created_at,
                "decided_at": now,
                "age_s": _age_s(post, now),
                "matches": reused_matches(original, post.post_id),
                "reused_from": reuse,
                "timings_s": {},
            }
        )
        tag = verdict.language.tag if verdict.language else None
        content = content_of(post, tag, None, None, None, None)
        return Judgement(verdict, dataclasses.replace(content, sha256=verdict.media_sha256), copy_of=original.post_id)

    def _same_models(self, original: Verdict) -> bool:
        """Whether every model that judged the original is the one that would judge now."""
        return bool(original.models) and all(self._models.get(node) == model for node, model in original.models.items())

    def _severity(self, scores: Mapping[str, float]) -> dict[str, int]:
        return {name: self._policy.severity_of(score) for name, score in scores.items() if name != "safe"}


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


def _content(post: Post, caption: str, judged: _Judged) -> Content:
    language = _language(post, caption)
    tag = language.tag if language else None
    return content_of(post, tag, judged.media, judged.frames, judged.sound, judged.text)


def _decision(decided: PolicyDecision) -> Decision:
    return Decision(**dataclasses.asdict(decided))


def _age_s(post: Post, now: datetime) -> float:
    return max(0.0, (now - post.created_at).total_seconds())


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
