"""Every setting of the application in one frozen, typed table: the `args` of a Serve config file.

A profile names a whole set of models; its defaults lie under what the file says. A profile's models cannot be
changed piecemeal: whoever wants another mix says `profile: custom` and takes responsibility for the fusion head
that fits it. Nothing else reads the environment or a file for settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.clip.settings import ClipSettings
from deployments.fusion.settings import LOCAL_ARTEFACT, FusionSettings
from deployments.media.settings import MediaSettings
from deployments.media.windows import SoundCut
from deployments.review_gate.settings import GateSettings
from deployments.runtime.node import NodeSettings
from deployments.similarity.node_settings import SimilaritySettings
from deployments.vggish.settings import VggishSettings
from deployments.wav2vec2.settings import Wav2Vec2Settings
from deployments.xlmr.settings import XlmrSettings
from serve_app.events.consumer_settings import ConsumerSettings
from serve_app.events.settings import BrokerSettings
from serve_app.events.webhook_settings import WebhookSettings
from serve_app.gate_settings import GatingSettings
from serve_app.http.settings import HttpSettings
from serve_app.profiles import PROFILE_NOTES, Profile, apply_profile
from serve_app.promise import PromiseSettings
from serve_app.records.settings import RetentionSettings
from serve_app.similarity_settings import IndexingSettings

DATA_DIR = Path("~/.parakh")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Replicas(Frozen):
    """How Ray Serve runs one node."""

    num_replicas: int = Field(1, ge=1, description="Processes of this node.")
    num_cpus: float = Field(0, ge=0, description="Processors reserved for each replica (bookkeeping only).")
    num_gpus: float = Field(0, ge=0, description="Share of a GPU for each replica; set the memory fraction to match.")
    memory_bytes: int | None = Field(None, ge=1, description="Memory reserved for each replica (bookkeeping only).")
    max_ongoing_requests: int = Field(
        4, ge=1, description="Calls a replica holds: the running batch and the next; what it holds dies with it."
    )
    max_queued_requests: int = Field(256, ge=0, description="Calls each caller lets wait before it answers 429.")
    health_check_period_s: float = Field(10.0, gt=0, description="How often Serve asks for health.")
    health_check_timeout_s: float = Field(30.0, gt=0, description="How long the answer may take.")
    graceful_shutdown_timeout_s: float = Field(20.0, ge=0, description="Time a stopping replica has to finish.")


class ClipNode(Frozen):
    encoder: ClipSettings = Field(default_factory=ClipSettings, description="The visual encoder.")
    node: NodeSettings = Field(default_factory=NodeSettings, description="Its batching and health.")
    replicas: Replicas = Field(default_factory=Replicas, description="Its processes.")


class VggishNode(Frozen):
    encoder: VggishSettings = Field(default_factory=VggishSettings, description="The sound encoder.")
    node: NodeSettings = Field(default_factory=NodeSettings, description="Its batching and health.")
    replicas: Replicas = Field(default_factory=Replicas, description="Its processes.")


class XlmrNode(Frozen):
    encoder: XlmrSettings = Field(default_factory=XlmrSettings, description="The text encoder.")
    node: NodeSettings = Field(
        default_factory=lambda: NodeSettings(max_batch_weight=512), description="Its batching and health."
    )
    replicas: Replicas = Field(default_factory=lambda: Replicas(max_ongoing_requests=16), description="Its processes.")


class FusionNode(Frozen):
    head: FusionSettings = Field(default_factory=FusionSettings, description="The fusion head.")
    replicas: Replicas = Field(default_factory=lambda: Replicas(max_ongoing_requests=16), description="Its processes.")


class MediaNode(Frozen):
    settings: MediaSettings = Field(default_factory=MediaSettings, description="Limits of fetching and decoding.")
    replicas: Replicas = Field(default_factory=Replicas, description="Its processes.")


class SimilarityNode(Frozen):
    enabled: bool = Field(True, description="Off: posts are neither indexed nor looked up, and its routes answer 404.")
    settings: SimilaritySettings = Field(default_factory=SimilaritySettings, description="The index and its uses.")
    indexing: IndexingSettings = Field(default_factory=IndexingSettings, description="What the ingress does for it.")
    replicas: Replicas = Field(default_factory=lambda: Replicas(max_ongoing_requests=64), description="Its processes.")

    @model_validator(mode="after")
    def _one_owner(self) -> SimilarityNode:
        if self.settings.backend == "embedded" and self.replicas.num_replicas != 1:
            raise ValueError(
                "replicas.num_replicas: one process owns the embedded index; several share one in Milvus "
                "(settings.backend: milvus)"
            )
        return self


class StreamsNode(Frozen):
    enabled: bool = Field(True, description="Off: no wav2vec2 node runs, and the routes of streams answer 404.")
    encoder: Wav2Vec2Settings = Field(default_factory=Wav2Vec2Settings, description="The classifiers of clips.")
    node: NodeSettings = Field(default_factory=NodeSettings, description="Its batching and health.")
    replicas: Replicas = Field(default_factory=Replicas, description="Its processes.")
    window_s: float = Field(20.0, ge=1, description="Length of the clips that sound of any length is cut into.")
    overlap_s: float = Field(0.0, ge=0, description="How much of a clip its successor hears again.")

    @model_validator(mode="after")
    def _windows_fit(self) -> StreamsNode:
        if self.overlap_s >= self.window_s:
            raise ValueError("overlap_s: must be shorter than window_s")
        if self.window_s > self.encoder.max_clip_s:
            raise ValueError("window_s: longer than encoder.max_clip_s, so every clip would be refused")
        return self

    @property
    def cut(self) -> SoundCut:
        return SoundCut(self.window_s, self.overlap_s)


class EventsNode(Frozen):
    broker: BrokerSettings = Field(
        default_factory=BrokerSettings, description="Where events come from and go to; off: no events node runs."
    )
    consumer: ConsumerSettings = Field(default_factory=ConsumerSettings, description="How events are worked off.")
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings, description="Who is told of events by HTTP.")
    replicas: Replicas = Field(
        default_factory=lambda: Replicas(graceful_shutdown_timeout_s=40.0),
        description="Processes that consume; partitions of the topics are shared among them.",
    )

    @model_validator(mode="after")
    def _ends_in_time(self) -> EventsNode:
        if self.broker.kind != "off" and self.consumer.drain_s + 5 > self.replicas.graceful_shutdown_timeout_s:
            raise ValueError(
                "consumer.drain_s: at least 5 s less than replicas.graceful_shutdown_timeout_s, so that what was "
                "worked off can leave"
            )
        return self


class GateNode(Frozen):
    node: GateSettings = Field(
        default_factory=GateSettings,
        description="Whose thresholds count. With neither tree nor calibration none runs, and all is reviewed.",
    )
    milestones: tuple[int, ...] = Field((1000, 2000), min_length=1, description="Views at which a post is decided on.")
    gating: GatingSettings = Field(default_factory=GatingSettings, description="History, audits, queue, live recall.")
    replicas: Replicas = Field(default_factory=lambda: Replicas(max_ongoing_requests=16), description="Its processes.")

    @model_validator(mode="after")
    def _rising(self) -> GateNode:
        if list(self.milestones) != sorted(set(self.milestones)) or self.milestones[0] < 1:
            raise ValueError("milestones: must be positive and rise")
        return self

    @property
    def served(self) -> bool:
        """Whether there is something to serve."""
        return self.node.tree is not None or self.node.calibration is not None


class Ingress(Frozen):
    replicas: Replicas = Field(
        default_factory=lambda: Replicas(max_ongoing_requests=64), description="Processes that answer HTTP."
    )


class AppConfig(Frozen):
    profile: Profile = Field("local", description="Which set of models: local, full, or custom.")
    data_dir: Path = Field(DATA_DIR, description="Where models, records and media live unless said otherwise.")
    models_dir: Path = Field(DATA_DIR / "models", description="Prepared models; default: `models` in data_dir.")
    records_url: str = Field("", description="SQLAlchemy URL; default: SQLite file `records.db` in data_dir.")
    media_store_url: str = Field("", description="Directory or s3:// URL; default: `media` in data_dir.")
    policy: Path | None = Field(None, description="Policy YAML; default: the one that ships with Parakh.")
    http: HttpSettings = Field(default_factory=HttpSettings, description="The HTTP door.")
    ingress: Ingress = Field(default_factory=Ingress, description="The HTTP node.")
    media: MediaNode = Field(default_factory=MediaNode, description="The media node.")
    clip: ClipNode = Field(default_factory=ClipNode, description="The visual node.")
    vggish: VggishNode = Field(default_factory=VggishNode, description="The sound node.")
    xlmr: XlmrNode = Field(default_factory=XlmrNode, description="The text node.")
    fusion: FusionNode = Field(default_factory=FusionNode, description="The fusion node.")
    similarity: SimilarityNode = Field(default_factory=SimilarityNode, description="The similarity node.")
    streams: StreamsNode = Field(default_factory=StreamsNode, description="Livestream audio: the wav2vec2 node.")
    events: EventsNode = Field(default_factory=EventsNode, description="The event path: broker and webhooks.")
    gate: GateNode = Field(default_factory=GateNode, description="The review gate at view-count milestones.")
    retention: RetentionSettings = Field(
        default_factory=RetentionSettings, description="How long the records of events and clips are kept."
    )
    promise: PromiseSettings = Field(default_factory=PromiseSettings, description="How soon a post has its verdict.")

    @model_validator(mode="before")
    @classmethod
    def _profile_under_given(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        profile = given.get("profile", "local")
        data_dir = Path(given.get("data_dir") or DATA_DIR).expanduser().absolute()
        models_dir = Path(given.get("models_dir") or data_dir / "models").expanduser().absolute()
        located = {
            **given,
            "data_dir": data_dir,
            "models_dir": models_dir,
            "records_url": given.get("records_url") or f"sqlite:///{data_dir / 'records.db'}",
            "media_store_url": given.get("media_store_url") or str(data_dir / "media"),
        }
        located["similarity"] = _with_directory(given.get("similarity", {}), data_dir / "similarity")
        return apply_profile(profile, located, models_dir)

    @model_validator(mode="after")
    def _full_profile_is_whole(self) -> AppConfig:
        if self.profile == "full" and self.fusion.head.artefact == LOCAL_ARTEFACT:
            raise ValueError(
                "fusion.head.artefact: the full profile has no fusion head of its own; train one for its encoders "
                "with `parakh train-fusion` and give its directory"
            )
        return self

    @property
    def profile_note(self) -> str:
        return PROFILE_NOTES[self.profile]


def _with_directory(similarity: Any, directory: Path) -> Any:
    """The index lies in data_dir unless said otherwise; what is no table is left to the field's own validation."""
    settings = similarity.get("settings", {}) if isinstance(similarity, Mapping) else None
    if not isinstance(settings, Mapping):
        return similarity
    return {**similarity, "settings": {"directory": directory, **settings}}
