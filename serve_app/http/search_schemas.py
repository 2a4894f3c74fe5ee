"""The JSON shapes of similarity search: searches, items, references, hash lists, what was shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from deployments.runtime.values import ContentType
from deployments.similarity.checks import MAX_K
from deployments.similarity.content import Bank
from serve_app.http.schemas import ErrorObject, Shape
from serve_app.posts import Id, MatchReport, SimilarityReport

MAX_DIMENSION = 8192
MAX_EXTERNAL_ID_CHARS = 120

VectorValues = Annotated[list[float], Field(min_length=1, max_length=MAX_DIMENSION)]
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXTERNAL_ID_CHARS)]
ReferenceId = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\s/\x00-\x1f\x7f]+$")]
Language = Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
Feed = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
SearchModality = Literal["visual", "joint", "audio", "text"]
Policy = Literal["allow", "review", "block"]


class MediaFields(Shape):
    media_url: str | None = Field(None, description="http or https, fetched behind the URL guard; or a data: URL.")
    media_base64: str | None = Field(None, description="The media file in base64.")


class SearchRequest(MediaFields):
    """Exactly one of post_id, vector, text and media (by URL, base64 or the part `media` of a multipart request)."""

    post_id: Id | None = Field(None, description="More like this indexed post.")
    vector: VectorValues | None = Field(None, description="A vector of `model`.")
    model: str | None = Field(None, description="Which encoder made the vector: clip, vggish, xlmr or clip-text.")
    text: str | None = Field(None, min_length=1, description="Posts whose caption says something like this.")
    modality: SearchModality | None = Field(
        None,
        description="What is compared. text: `joint` finds pictures by words, in profiles that have a joint space.",
    )
    k: int = Field(10, ge=1, le=MAX_K, description="Most hits.")
    threshold: float | None = Field(None, ge=-1, le=1, description="The lowest cosine that is a hit.")
    languages: list[Language] = Field([], max_length=64, description="Only of these; empty: of any.")
    content_types: list[ContentType] = Field([], description="Only of these; empty: of any.")
    created_from: AwareDatetime | None = Field(None, description="Published then or later.")
    created_until: AwareDatetime | None = Field(None, description="Published before then.")
    bank: Bank = Field(Bank.POSTS, description="Other banks than `posts` are for admins.")
    exact: bool = Field(False, description="Compare with everything: slow, and misses nothing; for admins.")


class Hit(Shape):
    id: str
    partition: str
    score: float
    created_at: datetime
    language: str
    content_type: str
    attributes: Mapping[str, Any]


class SearchBody(Shape):
    results: list[Hit] = Field(description="Best first.")
    failed: Mapping[str, str] = Field(description="Partition -> why it was not searched; empty where all were.")


class SearchBatchRequest(Shape):
    searches: list[Any] = Field(min_length=1, description="Each a SearchRequest.")


class ItemError(Shape):
    error: ErrorObject


class SearchBatchBody(Shape):
    answers: list[SearchBody | ItemError] = Field(description="In the order of the searches.")


class EncoderName(Shape):
    name: str = Field(min_length=1, max_length=256)
    version: str = Field(min_length=1, max_length=128)


class ItemFields(Shape):
    vector: VectorValues | None = Field(None, description="For every modality but pdq.")
    signature: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$", description="For pdq: 256 bits in hexadecimal.")
    encoder: EncoderName | None = Field(None, description="What made the vector; default: this server's own encoder.")
    language: Language | None = None
    content_type: ContentType | None = Field(None, description="Default: the partition's.")
    created_at: AwareDatetime | None = Field(None, description="Default: now.")
    attributes: Mapping[str, Any] = Field({}, description="JSON that comes back with every hit.")

    @model_validator(mode="after")
    def _one(self) -> ItemFields:
        if (self.vector is None) == (self.signature is None):
            raise ValueError("give either vector or signature")
        return self


class UpsertItem(ItemFields):
    op: Literal["upsert"] = "upsert"
    id: ItemId


class DeleteItem(Shape):
    op: Literal["delete"]
    id: ItemId


class ItemsBatchRequest(Shape):
    items: list[Any] = Field(min_length=1, description="Each an UpsertItem or, with `op: delete`, a DeleteItem.")


class ItemBody(Shape):
    id: str
    partition: str
    status: Literal["indexed", "deleted", "not_found"]


class ItemsBatchBody(Shape):
    results: list[ItemBody | ItemError] = Field(description="In the order of the items.")


class PartitionBody(Shape):
    partition: str
    encoder: EncoderName | None
    dimension: int | None
    index_type: str | None
    metric: str | None
    items: int | None
    memory_bytes: int | None
    disk_bytes: int | None
    buffered: int | None = Field(description="In the write buffer; findable like the rest.")
    deleted: int | None
    newest_at: datetime | None
    snapshot_at: datetime | None
    recall_estimate: float | None
    thresholds: Mapping[str, float] = Field(description="Use -> the worst score or distance that is a match.")
    damaged: str | None = Field(description="Why it refuses, where it does.")


class IndexesBody(Shape):
    partitions: list[PartitionBody]
    waiting_jobs: int = Field(description="Posts, references and list entries that the index is still to be told of.")
    oldest_waiting: datetime | None
    failed_jobs: int = Field(description="Those that the index refused, or that cannot be read: the log says why.")
    reused_verdicts: int = Field(description="Exact re-uploads that no encoder had to run for.")


class ReconciliationBody(Shape):
    compared: int = Field(description="Posts, references and list entries on either side.")
    told_again: Mapping[str, list[str]] = Field(description="Bank -> what the index lacked.")
    removed: Mapping[str, list[str]] = Field(description="Bank -> what it had too much.")
    lost: Mapping[str, str] = Field(description="Posts that cannot be embedded again, and why.")


class ReferenceRequest(MediaFields):
    """A work, by its media or by a vector of it."""

    reference_id: ReferenceId | None = Field(None, description="The client's own id; made up where missing.")
    kind: Literal["protected", "negative"] = Field("protected", description="negative: never a match of anything.")
    owner: str = Field(min_length=1, max_length=128, description="Whose it is.")
    policy: Policy | None = Field(None, description="What a match does; default: as the server's policy says.")
    title: str | None = Field(None, max_length=1000)
    vector: VectorValues | None = None
    model: str | None = Field(None, description="Which encoder made the vector: clip, vggish, xlmr or clip-text.")
    content_type: ContentType | None = Field(None, description="Of a vector; media tells its own.")


class ReferencePatch(Shape):
    enabled: bool | None = None
    quarantined: Literal[False] | None = Field(None, description="false lifts the quarantine.")
    policy: Policy | None = None
    title: str | None = Field(None, max_length=1000)
    owner: str | None = Field(None, min_length=1, max_length=128)

    @model_validator(mode="after")
    def _something(self) -> ReferencePatch:
        if not self.model_fields_set:
            raise ValueError("nothing is to be changed")
        for name in ("enabled", "quarantined", "owner"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null")
        return self


class ReferenceBody(Shape):
    reference_id: str
    kind: Literal["protected", "negative"]
    owner: str
    policy: str | None
    title: str | None
    enabled: bool
    created_at: datetime
    quarantined_at: datetime | None
    quarantine_reason: str | None


class NewReferenceBody(ReferenceBody):
    matches: list[MatchReport] = Field(description="Past posts that match the new reference.")
    truncated: bool = Field(description="There may be more of them: the surest are told.")
    similarity: SimilarityReport = Field(description="Whether they were looked for.")


class ReferencesBody(Shape):
    references: list[ReferenceBody]
    next_after: str | None = Field(description="Give it as `after` for the next page; null where there is none.")


class ReferenceBatchRequest(Shape):
    references: list[Any] = Field(min_length=1, description="Each a ReferenceRequest.")


class ReferenceBatchBody(Shape):
    results: list[NewReferenceBody | ItemError] = Field(description="In the order of the references.")


class HashListBody(Shape):
    name: str
    created_at: datetime
    changed_at: datetime
    entries: Mapping[str, int] = Field(description="Algorithm -> how many.")


class HashListProblem(Shape):
    line: int
    reason: str


class NewHashListBody(HashListBody):
    skipped: Mapping[str, int] = Field(description="Reason -> lines that are fine and of no use here.")
    problems: list[HashListProblem] = Field(description="Bad lines; only where they were tolerated.")


class HashListsBody(Shape):
    lists: list[HashListBody]


class ShownRequest(MediaFields):
    """Content by the id of an indexed post, or by its media."""

    feed: Feed = Field(description="Whose feed: up to 32 lower-case letters, digits and hyphens, a letter first.")
    post_id: Id | None = None


class ShownMark(ShownRequest):
    shown_at: AwareDatetime | None = Field(None, description="Default: now.")


class ShownCheck(ShownRequest):
    within_hours: float = Field(24.0, gt=0, le=24 * 366, description="How far back it counts.")


class ShownBody(Shape):
    shown: bool
    matches: list[MatchReport]
    failed: Mapping[str, str] = Field(description="Why it was not wholly looked for; empty where it was.")
