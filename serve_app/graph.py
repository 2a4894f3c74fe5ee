"""Binds the nodes to each other, and lets the pipeline speak to them through Ray Serve handles.

Frames and sound stay in shared memory: the media node answers with references, and only the encoders read them.
Handles that carry media go by reference (a call by value fails above 4 MiB in throughput mode), small ones by value.
What Ray raises becomes a ParakhError here, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ray.exceptions
from ray.serve import Application, Deployment
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.clip.deployment import ClipDeployment
from deployments.clip.registry import frame_spec
from deployments.fusion.deployment import FusionDeployment
from deployments.fusion.head import FusionInput, FusionOutput
from deployments.media.deployment import MediaDeployment
from deployments.runtime.errors import NodeUnavailable, NotFound, Overloaded, ParakhError
from deployments.runtime.values import Embeddings, ModelCard, NodeStatus, SoundBlock, TextEmbedding
from deployments.vggish.deployment import VggishDeployment
from deployments.xlmr.deployment import XlmrDeployment
from serve_app.config import AppConfig, Replicas
from serve_app.nodes import Decoded
from serve_app.posts import MediaSource

T = TypeVar("T")

STATUS_TIMEOUT_S = 5.0

_DIED = (
    ray.exceptions.RayActorError,  # also ActorDiedError and ActorUnavailableError
    ray.exceptions.ObjectLostError,  # also OwnerDiedError: the media replica died with the frames
    ray.exceptions.WorkerCrashedError,
    DeploymentUnavailableError,
)


def bind_nodes(config: AppConfig) -> dict[str, Application]:
    """Node name -> its bound deployment."""
    return {
        "media": scaled(MediaDeployment, config.media.replicas).bind(
            config.media.settings, frame_spec(config.clip.encoder)
        ),
        "clip": scaled(ClipDeployment, config.clip.replicas).bind(config.clip.encoder, config.clip.node),
        "vggish": scaled(VggishDeployment, config.vggish.replicas).bind(config.vggish.encoder, config.vggish.node),
        "xlmr": scaled(XlmrDeployment, config.xlmr.replicas).bind(config.xlmr.encoder, config.xlmr.node),
        "fusion": scaled(FusionDeployment, config.fusion.replicas).bind(config.fusion.head),
    }


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


@dataclass(frozen=True)
class RayNodes:
    """NodeHandles over Ray Serve handles; built inside the ingress replica."""

    media: DeploymentHandle
    clip: DeploymentHandle
    vggish: DeploymentHandle
    xlmr: DeploymentHandle
    fusion: DeploymentHandle

    async def decode(self, media: MediaSource) -> Decoded:
        handle = self.media.options(_by_reference=True)
        if media.url is not None:
            call = handle.fetch_and_decode_shared.remote(media.url)
        else:
            call = handle.decode_shared.remote(media.data)
        decoded, frames, sound = await _call(call)
        return Decoded(decoded, frames, sound)

    async def fetch(self, url: str) -> bytes:
        return await _call(self.media.options(_by_reference=True).fetch.remote(url))

    async def encode_frames(self, frames: Any) -> Embeddings:
        return await _call(self.clip.options(_by_reference=True).encode.remote(frames))

    async def encode_sound(self, sound: Any, blocks: tuple[SoundBlock, ...]) -> Embeddings:
        return await _call(self.vggish.options(_by_reference=True).encode_sound.remote(sound, blocks))

    async def encode_text(self, text: str) -> TextEmbedding:
        return await _call(self.xlmr.encode.remote(text))

    async def encode_joint_text(self, text: str) -> TextEmbedding:
        raise NotFound("This profile has no joint space of pictures and text.")

    async def fuse(self, parts: FusionInput) -> tuple[FusionOutput, ModelCard]:
        return await _call(self.fusion.fuse.remote(parts))

    async def check_encoders(self, cards: Mapping[str, ModelCard]) -> None:
        await _call(self.fusion.check_encoders.remote(cards))

    async def status(self) -> list[NodeStatus]:
        handles = {"media": self.media, "clip": self.clip, "vggish": self.vggish, "xlmr": self.xlmr}
        handles["fusion"] = self.fusion
        return list(await asyncio.gather(*(_status(name, handle) for name, handle in handles.items())))


async def _status(name: str, handle: DeploymentHandle) -> NodeStatus:
    """A node that does not answer in time has no replica yet, or none any more."""
    try:
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            status: NodeStatus = await _call(handle.status.remote())
            return status
    except TimeoutError:
        return NodeStatus(name, "loading", f"no replica answered within {STATUS_TIMEOUT_S:.0f} s")
    except ParakhError as error:
        return NodeStatus(name, "sick", str(error))


async def _call(response: Awaitable[T]) -> T:
    try:
        return await response
    except BackPressureError:
        raise Overloaded from None
    except _DIED as error:
        raise NodeUnavailable from error
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ParakhError):
            raise error.cause from None
        raise
