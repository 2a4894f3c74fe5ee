"""What a search request means: which vector of which encoder in which space, and which partitions count.

post_id -> more like it · vector + model -> as it is · text -> text or joint space · media -> embedded first
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from deployments.runtime.errors import InvalidInput, NotFound, UndecodableMedia
from deployments.runtime.values import ContentType, TextEmbedding
from deployments.similarity.content import (
    Content,
    ContentVector,
    EncoderId,
    IndexedModality,
    SearchHit,
)
from deployments.similarity.content import SearchRequest as VectorSearch
from deployments.similarity.values import Filter
from serve_app.contents import joint_encoder, primary_subtag
from serve_app.http.errors import ModelNotFound
from serve_app.http.search_schemas import Hit, SearchBody, SearchRequest
from serve_app.http.services import Services
from serve_app.posts import MediaSource, Post
from serve_app.similarity import LikeRequest, SearchAnswer

MODALITIES = {"clip": "visual", "vggish": "audio", "xlmr": "text", "clip-text": "joint"}
"""The models that a vector may be of, and the modality that each one's vectors are indexed as."""

_ENCODERS = {"visual": "clip", "joint": "clip", "audio": "vggish", "text": "xlmr"}


async def search(services: Services, asked: SearchRequest, media: MediaSource | None) -> SearchBody:
    """Raises InvalidInput, ModelNotFound, NotFound, SimilarityOff, or what a node raised."""
    similarity = services.similarity
    _check_exactly_one(asked, media)
    if asked.post_id is not None:
        if asked.bank != "posts":
            raise InvalidInput("More like a post is looked for among posts.", param="bank")
        like = LikeRequest(asked.modality, asked.k, asked.threshold, filter_of(asked), asked.exact)
        return body_of(await similarity.more_like(asked.post_id, like))
    modality, found = await _query(services, asked, media)
    request = VectorSearch(
        encoder=found.encoder,
        vector=found.vector,
        modality=modality,
        bank=asked.bank,
        k=asked.k,
        threshold=asked.threshold,
        filter=filter_of(asked),
        exact=asked.exact,
    )
    return body_of(await similarity.search(request))


def filter_of(asked: SearchRequest) -> Filter:
    return Filter(
        languages=frozenset(primary_subtag(tag) for tag in asked.languages),
        content_types=frozenset(asked.content_types),
        created_from=None if asked.created_from is None else asked.created_from.timestamp(),
        created_until=None if asked.created_until is None else asked.created_until.timestamp(),
    )


def body_of(answer: SearchAnswer) -> SearchBody:
    return SearchBody(results=[_hit(hit) for hit in answer.hits], failed=dict(answer.failed))


async def vector_of(services: Services, values: Sequence[float], model: str | None) -> tuple[str, ContentVector]:
    """The modality that a vector given by the client is of, and the vector. Raises InvalidInput, ModelNotFound."""
    if model is None:
        raise InvalidInput("Say with `model` which encoder made the vector.", param="model")
    if model not in MODALITIES:
        raise ModelNotFound(f"There is no encoder named `{model}`.", param="model")
    modality = MODALITIES[model]
    with np.errstate(over="ignore"):
        vector = np.asarray(values, np.float32)
    if not np.isfinite(vector).all():
        raise InvalidInput("vector holds a number that a float32 cannot.", param="vector")
    found = ContentVector(encoder_of(services, modality), vector)
    await check_dimension(services, modality, found.encoder, len(vector))
    return modality, found


async def check_dimension(services: Services, modality: str, encoder: EncoderId, dimension: int) -> None:
    """A partition takes its dimension from its first vector: a wrong one would shut all others out.

    Raises InvalidInput where `encoder` is one that this server runs, and makes other vectors; ModelNotFound for a joint
    space that it has not.
    """
    if not runs(services, modality, encoder):
        return
    expected = await _dimension(services, modality)
    if expected is not None and dimension != expected:
        raise InvalidInput(f"The vector has {dimension} numbers; {encoder} makes {expected}.", param="vector")


def runs(services: Services, modality: str, encoder: EncoderId) -> bool:
    """Whether `encoder` is the one that this server runs for the modality."""
    try:
        return encoder_of(services, modality) == encoder
    except ModelNotFound:
        return False


async def _dimension(services: Services, modality: str) -> int | None:
    """None where it is not known yet."""
    moderator = services.moderator
    if modality != IndexedModality.JOINT:
        return moderator.dimension(_ENCODERS.get(modality, ""))
    return moderator.dimension("clip-text") or len((await _joint_text(services, "a"))[0].vector)


async def _joint_text(services: Services, text: str) -> list[TextEmbedding]:
    try:
        return await services.moderator.embed_texts("clip-text", [text])
    except NotFound as error:
        raise ModelNotFound("This profile has no space that texts and pictures share.", param="modality") from error


def encoder_of(services: Services, modality: str) -> EncoderId:
    """The encoder that this server runs for a modality. Raises ModelNotFound."""
    report = services.moderator.models().get(_ENCODERS.get(modality, ""))
    if report is None:
        raise ModelNotFound(f"This server runs no encoder for {modality}.", param="model")
    if modality == IndexedModality.JOINT:
        return joint_encoder(report.name, report.version)
    return EncoderId(report.name, report.version)


async def describe(
    services: Services, media: MediaSource, id_: str, language: str | None = None, caption: str | None = None
) -> Content:
    """Media as the index would be told of it; what it really is, its bytes decide."""
    post = Post(
        post_id=id_,
        author_id="search",
        content_type=ContentType.VIDEO,
        created_at=datetime.now(UTC),
        language=language,
        caption=caption,
    )
    return await services.moderator.describe(post, media)


def _check_exactly_one(asked: SearchRequest, media: MediaSource | None) -> None:
    given = {"post_id": asked.post_id, "vector": asked.vector, "text": asked.text, "media": media}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise InvalidInput(
            "Give exactly one of post_id, vector, text and media.", param=names[1] if len(names) > 1 else "post_id"
        )
    if asked.model is not None and asked.vector is None:
        raise InvalidInput("`model` is only for a vector.", param="model")


async def _query(services: Services, asked: SearchRequest, media: MediaSource | None) -> tuple[str, ContentVector]:
    if asked.vector is not None:
        modality, found = await vector_of(services, asked.vector, asked.model)
        if asked.modality not in (None, modality):
            raise InvalidInput(f"Vectors of `{asked.model}` are indexed as {modality}.", param="modality")
        return modality, found
    if asked.text is not None:
        return await _text_query(services, asked.text, asked.modality or "text")
    assert media is not None
    return _media_query(await describe(services, media, "search"), asked.modality)


async def _text_query(services: Services, text: str, modality: str) -> tuple[str, ContentVector]:
    if len(text) > services.settings.max_caption_chars:
        raise InvalidInput(f"text is longer than {services.settings.max_caption_chars} characters.", param="text")
    if not text.strip():
        raise InvalidInput("text is empty.", param="text")
    if modality not in ("text", "joint"):
        raise InvalidInput("A text is compared with texts, or in the space that pictures share.", param="modality")
    if modality == "joint":
        (found,) = await _joint_text(services, text)
    else:
        (found,) = await services.moderator.embed_texts("xlmr", [text])
    return modality, ContentVector(encoder_of(services, modality), found.vector)


def _media_query(content: Content, modality: str | None) -> tuple[str, ContentVector]:
    chosen = modality or next((name for name in ("visual", "audio") if name in content.vectors), None)
    if chosen is None or chosen not in content.vectors:
        raise UndecodableMedia(f"The media has nothing {chosen or 'visual or audible'} to search by.", param="media")
    return chosen, content.vectors[chosen]


def _hit(hit: SearchHit) -> Hit:
    return Hit(
        id=hit.id,
        partition=hit.partition,
        score=hit.score,
        created_at=datetime.fromtimestamp(hit.created_at, UTC),
        language=hit.language,
        content_type=hit.content_type,
        attributes=hit.attributes,
    )
