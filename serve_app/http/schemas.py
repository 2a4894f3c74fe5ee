"""The JSON shapes of the API that are not already values of `serve_app.posts`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from deployments.runtime.values import Modality, Weights
from serve_app.posts import (
    Decision,
    EvidenceReport,
    LanguageReport,
    MatchReport,
    ModalityReport,
    ModelReport,
    Post,
    SegmentReport,
    SimilarityReport,
)


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorObject(Shape):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(Shape):
    """Every error of every route."""

    error: ErrorObject
    request_id: str


class PostRequest(Post):
    """A post with where its media is; a multipart request carries the media in its part `media` instead."""

    media_url: str | None = Field(None, description="http or https, fetched behind the URL guard; or a data: URL.")
    media_base64: str | None = Field(None, description="The media file in base64.")

    def as_post(self) -> Post:
        return Post.model_validate(self.model_dump(exclude={"media_url", "media_base64"}))


class PostStatusBody(Shape):
    """A post whose verdict is still to come, or whose job failed."""

    post_id: str
    revision: int
    status: Literal["pending", "running", "failed"]
    received_at: datetime
    attempts: int
    error: ErrorObject | None = None


class UrlObject(BaseModel):
    model_config = ConfigDict(extra="ignore")  # OpenAI's clients may send `detail`

    url: str


class TextPart(Shape):
    type: Literal["text"]
    text: str


class ImagePart(Shape):
    type: Literal["image_url"]
    image_url: UrlObject | str


class VideoPart(Shape):
    type: Literal["video_url"]
    video_url: UrlObject | str


class AudioPart(Shape):
    type: Literal["audio_url"]
    audio_url: UrlObject | str


Part = Annotated[TextPart | ImagePart | VideoPart | AudioPart, Field(discriminator="type")]


def _kind_of_input(value: object) -> str:
    """Which of the three forms was meant, so that the error is about that one."""
    if not isinstance(value, list):
        return "<text>"
    return "<parts>" if any(isinstance(item, dict) for item in value) else "<texts>"


ModerationInput = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[str], Tag("<texts>")] | Annotated[list[Part], Tag("<parts>")],
    Discriminator(_kind_of_input),
]


def _no_tokens(value: object) -> object:
    if isinstance(value, list) and any(isinstance(item, int | list) for item in value):
        raise ValueError("token arrays are not accepted; send the text itself")
    return value


class ModerationRequest(Shape):
    input: ModerationInput = Field(
        description="A text, a list of texts (one result each), or a list of parts (one result together; "
        "at most one of them media, by http(s) or data: URL)."
    )
    model: str | None = Field(None, description="Optional; OpenAI's names are accepted.")


class ModerationResult(Shape):
    """OpenAI's four keys, and what this service knows beyond them."""

    flagged: bool = Field(description="The action is not `allow`.")
    categories: Mapping[str, bool]
    category_scores: Mapping[str, float]
    category_applied_input_types: Mapping[str, list[str]]
    severity: Mapping[str, int] = Field(description="0, 2, 4 or 6 for each category but `safe`.")
    nsfw_score: float
    decision: Decision
    modalities: Mapping[Modality, ModalityReport]
    segments: list[SegmentReport]
    evidence: list[EvidenceReport]
    matches: list[MatchReport]
    similarity: SimilarityReport
    models: Mapping[str, ModelReport]
    language: LanguageReport | None


class ModerationBody(Shape):
    id: str
    model: str
    results: list[ModerationResult]


class EmbeddingRequest(Shape):
    input: Annotated[str | list[str], BeforeValidator(_no_tokens)] = Field(
        description="A text or a list of texts; for `clip` image URLs (data: or http(s))."
    )
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="Accepted only where it equals the model's own.")
    user: str | None = None


class EmbeddingItem(Shape):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(Shape):
    prompt_tokens: int
    total_tokens: int


class EmbeddingBody(Shape):
    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class NodeModel(Shape):
    name: str
    version: str
    weights: Weights
    note: str = ""


class NodeBody(Shape):
    node: str
    state: Literal["ready", "loading", "sick"]
    reason: str | None
    last_forward_age_s: float | None = Field(description="Seconds since the last real forward pass that succeeded.")
    model: NodeModel | None


class ReadinessBody(Shape):
    status: Literal["ready", "degraded", "not_ready"]
    profile: str
    profile_note: str
    nodes: list[NodeBody]


class LivenessBody(Shape):
    status: Literal["alive"] = "alive"
