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
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
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
    ContentType,
    Embeddings,
    Modality,
    ModalityStatus,
    ModelCard,
    NodeStatus,
    Status,
    TextEmbedding,
)
from deployments.similarity.content import Content
from serve_app.contents import content_of
from serve_app.judgement import Judgement
from serve_app.lookup import Found, Known, Lookup
from serve_app.nodes import Decoded, NodeHandles
from serve_app.posts import (
    MediaSource,
    ModelReport,
    Post,
    Verdict,
)
from serve_app.similarity import Digests
from serve_app.verdicts import Judged, judged_verdict, known_bad_verdict, language_of, reused_verdict

logger = logging.getLogger(__name__)

T = TypeVar("T")
NO_TIME = "left out: the post's deadline was near"


class Pipeline:
    """The moderator behind every door: HTTP, jobs, command line."""

    def __init__(self, nodes: NodeHandles, policy: Policy, lookup: Lookup | None = None) -> None:
        self._nodes = nodes
        self._policy = policy
        self._lookup = lookup or Lookup(None)
        self._models: dict[str, ModelReport] = {}
        self._dimensions: dict[str, int] = {}  # node or text encoder -> dimension of its vectors

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
        without: frozenset[Modality] = frozenset(),
    ) -> Judgement:
        """Judge one post. With `wait_for_nodes` a node that is down raises, instead of its modality or the search
        for matches being left out: for callers that can try again later. `without`: modalities there is no time for;
        of a video or gif its frames are left out, where its sound or caption can be judged.

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
                return await self._judge(post, media, wait_for_nodes, without)
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
        found = list(await asyncio.gather(*(_retried(partial(encode, text)) for text in texts)))
        for embedding in found[:1]:
            self._dimensions[model] = len(embedding.vector)
        return found

    async def embed_images(self, images: list[bytes]) -> list[Embeddings]:
        return list(await asyncio.gather(*(self._embed_image(image) for image in images)))

    async def status(self) -> list[NodeStatus]:
        statuses = await self._nodes.status()
        for status in statuses:
            if status.model is not None:
                self._models[status.node] = _model_report(status.model)
                self._dimensions[status.node] = status.model.dimension
        return statuses

    def models(self) -> Mapping[str, ModelReport]:
        """Models seen so far in statuses and results, by node."""
        return self._models

    def dimension(self, node: str) -> int | None:
        """`clip-text` is known once it was asked."""
        return self._dimensions.get(node) or None

    async def _judge(
        self, post: Post, media: MediaSource | None, wait_for_nodes: bool, without: frozenset[Modality]
    ) -> Judgement:
        caption = (post.caption or "").strip()
        if media is None and not caption:
            raise InvalidInput("The post has neither media nor a caption to judge.", param="caption")
        known = await self._known(post, media)
        if known.error is not None and wait_for_nodes:
            raise known.error
        if known.listed:
            return Judgement(known_bad_verdict(self._policy, post, caption, known.listed, known.sha256))
        if known.original is not None and self._same_models(known.original):
            return self._reused(post, known.original)
        judged = await self._encode(media, caption, wait_for_nodes, without)
        if judged.listed:
            sha256 = judged.media.sha256 if judged.media else None
            return Judgement(known_bad_verdict(self._policy, post, caption, judged.listed, sha256))
        if judged.unlisted is not None and wait_for_nodes:
            raise judged.unlisted
        content = _content(post, caption, judged)
        async with _together() as working:
            search = working.create_task(self._search(content, judged))
            fusing = working.create_task(self._fuse(judged))
        found, output = search.result(), fusing.result()
        if wait_for_nodes and isinstance(found.error, NodeUnavailable | Overloaded):
            raise found.error
        found = found.and_failed(known.error or judged.unlisted)
        return Judgement(judged_verdict(self._policy, post, caption, judged, output, found), content)

    async def _known(self, post: Post, media: MediaSource | None) -> Known:
        if media is None or media.data is None:
            return Known()
        return await self._lookup.known(post, media.data, self._policy.version)

    async def _encode(
        self,
        media: MediaSource | None,
        caption: str,
        wait_for_nodes: bool,
        without: frozenset[Modality] = frozenset(),
    ) -> Judged:
        judged = Judged(without=without)
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

    async def _search(self, content: Content, judged: Judged) -> Found:
        with judged.timed("similarity"):
            return await self._lookup.matches(content)

    async def _fuse(self, judged: Judged) -> FusionOutput:
        with judged.timed("fusion"):
            output, card = await _retried(
                lambda: self._nodes.fuse(FusionInput(frames=judged.frames, sound=judged.sound, text=judged.text))
            )
        judged.models["fusion"] = _model_report(card)
        self._models.update(judged.models)
        return output

    async def _judge_media(self, media: MediaSource | None, judged: Judged, has_text: bool) -> None:
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
            found = await self._lookup.listed(Digests(known.md5, known.sha1, known.sha256))
            judged.listed, judged.unlisted = found.listed, found.error
            if judged.listed:
                return
        judged.statuses[Modality.VISUAL] = decoded.media.visual
        judged.statuses[Modality.AUDIO] = decoded.media.audio
        async with _together() as judging:
            judging.create_task(self._judge_frames(decoded, judged, has_text))
            judging.create_task(self._judge_sound(decoded, judged))

    async def _judge_frames(self, decoded: Decoded, judged: Judged, has_text: bool) -> None:
        if decoded.frames is None:
            return
        moving = decoded.media.content_type in (ContentType.VIDEO, ContentType.GIF)
        if Modality.VISUAL in judged.without and moving and (has_text or decoded.sound is not None):
            judged.statuses[Modality.VISUAL] = ModalityStatus(Status.SKIPPED, reason=NO_TIME)
            return
        frames = await self._encoded(
            "clip", Modality.VISUAL, judged, lambda: self._nodes.encode_frames(decoded.frames), decoded.media.visual
        )
        judged.frames = None if frames is None else _with_times(frames, decoded.media.frame_times_s)

    async def _judge_sound(self, decoded: Decoded, judged: Judged) -> None:
        if decoded.sound is None:
            return
        judged.sound = await self._encoded(
            "vggish",
            Modality.AUDIO,
            judged,
            lambda: self._nodes.encode_sound(decoded.sound, decoded.media.sound_blocks),
            decoded.media.audio,
        )

    async def _judge_text(self, caption: str, judged: Judged) -> None:
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
        judged: Judged,
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
            self._dimensions[node] = card.dimension
        return result

    async def _embed_image(self, image: bytes) -> Embeddings:
        decoded = await _retried(lambda: self._nodes.decode(MediaSource(data=image)))
        if decoded.frames is None:
            raise UndecodableMedia("The input is not an image.")
        return await _retried(lambda: self._nodes.encode_frames(decoded.frames))

    def _reused(self, post: Post, original: Verdict) -> Judgement:
        self._lookup.reused()
        verdict = reused_verdict(post, original)
        content = content_of(post, verdict.language.tag if verdict.language else None, None, None, None, None)
        return Judgement(verdict, dataclasses.replace(content, sha256=verdict.media_sha256), copy_of=original.post_id)

    def _same_models(self, original: Verdict) -> bool:
        """Whether every model that judged the original is the one that would judge now."""
        return bool(original.models) and all(self._models.get(node) == model for node, model in original.models.items())


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


def _nothing_left(judged: Judged) -> ParakhError:
    """Nodes are well, and still nothing could be judged: the post's own fault, so that nobody asks again for ever."""
    refused = next((error for error in judged.errors if isinstance(error, InvalidInput)), None)
    if refused is not None:
        return refused
    reasons = "; ".join(f"{m}: {s.reason}" for m, s in judged.statuses.items() if s.status is Status.FAILED)
    if reasons:
        return UndecodableMedia(f"Nothing of the post can be judged ({reasons}).")
    return UndecodableMedia("The media holds neither pictures nor sound, and there is no caption.")


def _content(post: Post, caption: str, judged: Judged) -> Content:
    language = language_of(post, caption)
    tag = language.tag if language else None
    return content_of(post, tag, judged.media, judged.frames, judged.sound, judged.text)


def _model_report(card: ModelCard) -> ModelReport:
    return ModelReport(name=card.name, version=card.version, weights=card.weights, note=card.note)
