"""Binds the nodes to each other, and lets the pipeline speak to them through Ray Serve handles.

Frames and sound stay in shared memory: the media node answers with references, and only the encoders read them.
Handles that carry media go by reference (a call by value fails above 4 MiB in throughput mode), small ones by value.
What Ray raises becomes a ParakhError here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
import ray.exceptions
from ray import serve
from ray.serve import Application, Deployment
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.clip.deployment import ClipDeployment
from deployments.clip.registry import frame_spec
from deployments.fusion.deployment import FusionDeployment
from deployments.fusion.head import FusionInput, FusionOutput
from deployments.media.deployment import MediaDeployment
from deployments.media.windows import SoundCut
from deployments.review_gate.deployment import ReviewGateDeployment
from deployments.review_gate.values import GateDecision, GateInput
from deployments.runtime.errors import InvalidInput, NodeUnavailable, Overloaded, ParakhError
from deployments.runtime.values import Embeddings, ModelCard, NodeStatus, SoundBlock, SoundWindow, TextEmbedding
from deployments.similarity.deployment import SimilarityDeployment
from deployments.vggish.deployment import VggishDeployment
from deployments.wav2vec2.deployment import Wav2Vec2Deployment
from deployments.wav2vec2.values import ClipScores
from deployments.xlmr.deployment import XlmrDeployment
from serve_app.config import AppConfig, Replicas
from serve_app.nodes import Decoded
from serve_app.posts import MediaSource
from serve_app.similarity_calls import SimilarityCalls
from serve_app.streams.errors import StreamsOff

T = TypeVar("T")

logger = logging.getLogger(__name__)

STATUS_TIMEOUT_S = 3.0  # below the 5 s after which /readyz gives up on the whole graph
FRESH_S = 10.0  # a pass that this ingress saw succeed so lately needs no asking

_DIED = (
    ray.exceptions.RayActorError,  # also ActorDiedError and ActorUnavailableError
    ray.exceptions.ObjectLostError,  # also OwnerDiedError: the media replica died with the frames
    ray.exceptions.WorkerCrashedError,
    DeploymentUnavailableError,
)


def bind_nodes(config: AppConfig) -> dict[str, Application]:
    """Node name -> its bound deployment."""
    nodes = {
        "media": scaled(MediaDeployment, config.media.replicas).bind(
            config.media.settings, frame_spec(config.clip.encoder)
        ),
        "clip": scaled(ClipDeployment, config.clip.replicas).bind(config.clip.encoder, config.clip.node),
        "vggish": scaled(VggishDeployment, config.vggish.replicas).bind(config.vggish.encoder, config.vggish.node),
        "xlmr": scaled(XlmrDeployment, config.xlmr.replicas).bind(config.xlmr.encoder, config.xlmr.node),
        "fusion": scaled(FusionDeployment, config.fusion.replicas).bind(config.fusion.head),
    }
    if config.similarity.enabled:
        similarity = config.similarity
        nodes["similarity"] = scaled(SimilarityDeployment, similarity.replicas).bind(similarity.settings)
    if config.streams.enabled:
        streams = config.streams
        nodes["wav2vec2"] = scaled(Wav2Vec2Deployment, streams.replicas).bind(streams.encoder, streams.node)
    if config.gate.served:
        nodes["review_gate"] = scaled(ReviewGateDeployment, config.gate.replicas).bind(config.gate.node)
    return nodes


def node_names(config: AppConfig) -> list[str]:
    """The names that `bind_nodes` gives."""
    chosen = (
        ("similarity", config.similarity.enabled),
        ("wav2vec2", config.streams.enabled),
        ("review_gate", config.gate.served),
    )
    return ["media", "clip", "vggish", "xlmr", "fusion", *(name for name, enabled in chosen if enabled)]


@contextmanager
def attached(config: AppConfig, address: str, application: str) -> Iterator[RayNodes]:
    """The nodes of an application that runs already, for a process that is no replica."""
    ray.init(address=address, namespace="serve", log_to_driver=False)
    try:
        yield RayNodes({name: serve.get_deployment_handle(name, application) for name in node_names(config)})
    finally:
        ray.shutdown()


def scaled(deployment: Deployment, replicas: Replicas) -> Deployment:
    actor_options: dict[str, Any] = {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus}
    if replicas.memory_bytes is not None:
        actor_options["memory"] = replicas.memory_bytes
    return deployment.options(
        num_replicas=replicas.num_replicas,
        max_ongoing_requests=replicas.max_ongoing_requests,
        max_queued_requests=replicas.max_queued_requests,
        health_check_period_s=replicas.health_check_period_s,
        health_check_timeout_s=replicas.health_check_timeout_s,
        graceful_shutdown_timeout_s=replicas.graceful_shutdown_timeout_s,
        ray_actor_options=actor_options,
    )


class RayNodes:
    """NodeHandles over Ray Serve handles; built inside the ingress replica."""

    def __init__(self, handles: Mapping[str, DeploymentHandle]) -> None:
        """`handles`: node name -> handle, as `bind_nodes` names them."""
        self._handles = handles
        self._media = handles["media"].options(_by_reference=True)
        self._clip = handles["clip"].options(_by_reference=True)
        self._vggish = handles["vggish"].options(_by_reference=True)
        self._wav2vec2 = handles["wav2vec2"].options(_by_reference=True) if "wav2vec2" in handles else None
        self.similarity = SimilarityCalls(self._ask_similarity) if "similarity" in handles else None
        self.gate = RayGate(handles["review_gate"]) if "review_gate" in handles else None
        self._last_success: dict[str, float] = {}
        self._cards: dict[str, ModelCard] = {}

    async def decode(self, media: MediaSource) -> Decoded:
        if media.url is not None:
            call = self._media.fetch_and_decode_shared.remote(media.url)
        else:
            call = self._media.decode_shared.remote(media.data)
        decoded, frames, sound = await self._answer("media", call)
        return Decoded(decoded, frames, sound)

    async def fetch(self, url: str) -> bytes:
        return await self._answer("media", self._media.fetch.remote(url))

    async def encode_frames(self, frames: Any) -> Embeddings:
        return await self._answer("clip", self._clip.encode.remote(frames))

    async def encode_sound(self, sound: Any, blocks: tuple[SoundBlock, ...]) -> Embeddings:
        return await self._answer("vggish", self._vggish.encode_sound.remote(sound, blocks))

    async def encode_text(self, text: str) -> TextEmbedding:
        return await self._answer("xlmr", self._handles["xlmr"].encode.remote(text))

    async def encode_joint_text(self, text: str) -> TextEmbedding:
        return await self._answer("clip", self._handles["clip"].encode_joint_text.remote(text))

    async def decode_sound(self, data: bytes, cut: SoundCut | None, max_s: float | None = None) -> list[SoundWindow]:
        return await self._answer("media", self._media.decode_sound_shared.remote(data, cut, max_s))

    async def classify_sound(self, sound: Any, language: str | None) -> ClipScores:
        if self._wav2vec2 is None:
            raise StreamsOff
        return await self._answer("wav2vec2", self._wav2vec2.classify_sound.remote(sound, language))

    async def fuse(self, parts: FusionInput) -> tuple[FusionOutput, ModelCard]:
        return await self._answer("fusion", self._handles["fusion"].fuse.remote(parts))

    async def check_encoders(self, cards: Mapping[str, ModelCard]) -> None:
        await self._answer("fusion", self._handles["fusion"].check_encoders.remote(cards))

    async def _ask_similarity(self, method: str, *arguments: Any, **named: Any) -> Any:
        """By reference: the vectors of a long video's frames exceed what a call by value may carry."""
        handle = self._handles["similarity"].options(_by_reference=True)
        return await _translated(getattr(handle, method).remote(*arguments, **named))

    async def status(self) -> list[NodeStatus]:
        return list(await asyncio.gather(*(self._status(name) for name in self._handles)))

    async def _status(self, name: str) -> NodeStatus:
        """What this ingress saw itself counts: asking would queue behind the traffic that proves the node well."""
        age_s = time.monotonic() - self._last_success.get(name, -math.inf)
        if age_s < FRESH_S:
            return NodeStatus(name, "ready", None, round(age_s, 1), self._cards.get(name))
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                status: NodeStatus = await _translated(self._handles[name].status.remote())
        except Overloaded:
            return NodeStatus(name, "ready", "its queue is full", None, self._cards.get(name))
        except TimeoutError:  # no replica yet, none any more, or one that hangs
            return NodeStatus(name, "loading", f"no replica answered within {STATUS_TIMEOUT_S:.0f} s")
        except ParakhError as error:
            return NodeStatus(name, "sick", str(error))
        except Exception:  # one node's strange failure must not hide the others
            logger.exception("%s: its status could not be read", name)
            return NodeStatus(name, "sick", "its status could not be read; the log says why")
        if status.model is not None:
            self._cards[name] = status.model
        return status

    async def _answer(self, name: str, call: Awaitable[T]) -> T:
        answer = await _translated(call)
        self._last_success[name] = time.monotonic()
        return answer


class RayGate:
    """GateKeeper over a handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def decide_many(self, posts: Sequence[GateInput]) -> list[GateDecision | InvalidInput]:
        decisions: list[GateDecision | InvalidInput] = await _translated(self._handle.decide_many.remote(list(posts)))
        return decisions


async def _translated(call: Awaitable[T]) -> T:
    """Ray's exceptions become ParakhErrors here."""
    try:
        return await call
    except BackPressureError:
        raise Overloaded from None
    except _DIED as error:
        raise NodeUnavailable from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ParakhError):
            raise error.cause from None
        raise
