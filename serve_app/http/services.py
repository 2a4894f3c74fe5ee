"""What the routes call: the moderator (the graph behind a small protocol), the records and the media store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from deployments.runtime.values import Embeddings, Modality, NodeStatus, TextEmbedding
from deployments.similarity.content import Content
from serve_app.gate_settings import GatingSettings
from serve_app.gating import GateKeeper, GateObserver, ReviewEverything
from serve_app.housekeeping import House
from serve_app.http.settings import HttpSettings
from serve_app.judgement import Judgement
from serve_app.media_store import MediaStore
from serve_app.posts import MediaSource, ModelReport, Post, Verdict
from serve_app.promise import AgeObserver, Promise
from serve_app.records import Records
from serve_app.records.settings import RetentionSettings
from serve_app.similarity import Similarity, SimilarityOff
from serve_app.similarity_settings import IndexingSettings
from serve_app.streams.errors import StreamsOff
from serve_app.streams.intake import ClipModerator, StreamIntake


class Moderator(Protocol):
    """The graph as the doors see it. Every method raises a ParakhError where it cannot answer."""

    async def moderate(
        self,
        post: Post,
        media: MediaSource | None,
        *,
        deadline_s: float | None = None,
        wait_for_nodes: bool = False,
    ) -> Verdict:
        """The verdict alone, for doors that store nothing."""
        ...

    async def judge(
        self,
        post: Post,
        media: MediaSource | None,
        *,
        deadline_s: float | None = None,
        wait_for_nodes: bool = False,
        without: frozenset[Modality] = frozenset(),
    ) -> Judgement:
        """With `wait_for_nodes` NodeUnavailable rather than a verdict without a modality whose node is down; `without`
        leaves out modalities there is no time for."""
        ...

    async def describe(self, post: Post, media: MediaSource | None) -> Content:
        """The post's vectors and signatures, neither judged nor looked up."""
        ...

    async def embed_texts(self, model: str, texts: list[str]) -> list[TextEmbedding]: ...

    async def embed_images(self, images: list[bytes]) -> list[Embeddings]: ...

    async def status(self) -> list[NodeStatus]: ...

    def models(self) -> Mapping[str, ModelReport]:
        """Node name -> model; a model that is not in it is a 404 for the embeddings route."""
        ...

    def dimension(self, node: str) -> int | None:
        """Of the vectors that the node's model makes, where that is known; `clip-text`: of the joint space."""
        ...


class Outgoing(Protocol):
    """What publishes the outbox beside the server."""

    def start(self) -> None: ...

    def wake(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True)
class Services:
    """Everything `create_app` needs."""

    moderator: Moderator
    records: Records
    media_store: MediaStore
    settings: HttpSettings
    profile: str  # "local" or "full"; the API's model name is parakh-<profile>
    profile_note: str = ""  # one sentence: what this profile's numbers are worth
    policy_version: str | None = None  # the policy a stored verdict must have to be replayed; None: any
    fetch_media: Callable[[str], Awaitable[bytes]] | None = None  # guarded fetch; None refuses image URLs to embed
    index: Similarity | None = None  # None: runs without similarity search
    indexing: IndexingSettings = field(default_factory=IndexingSettings)

    clips: ClipModerator | None = None  # None: runs without livestream audio
    stream_windows: int = 5  # how many windows of a stream an answer shows
    promise: Promise = field(default_factory=Promise)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    ages: AgeObserver | None = None
    outgoing: Outgoing | None = None  # None: events stay in the outbox
    gate: GateKeeper = field(default_factory=ReviewEverything)
    gating: GatingSettings = field(default_factory=GatingSettings)
    gate_observer: GateObserver | None = None

    @property
    def streams(self) -> StreamIntake:
        """Raises StreamsOff."""
        if self.clips is None:
            raise StreamsOff
        return StreamIntake(self.clips, self.records.streams)

    @property
    def similarity(self) -> Similarity:
        """Raises SimilarityOff."""
        if self.index is None:
            raise SimilarityOff
        return self.index

    @property
    def house(self) -> House:
        return House(
            records=self.records,
            media_store=self.media_store,
            retention=self.retention,
            media_retention_s=self.settings.media_retention_s,
            quarantine_window_s=self.indexing.quarantine_window_s,
            request_timeout_s=self.settings.request_timeout_s,
        )

    @property
    def model_name(self) -> str:
        return f"parakh-{self.profile}"
