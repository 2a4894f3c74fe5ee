"""What a request for a reference means: its content, where it is kept, and which past posts it matches."""

from __future__ import annotations

import logging
import uuid
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from deployments.runtime.errors import InvalidInput, ParakhError
from deployments.similarity.content import ANY, Content, MatchAnswer
from serve_app.contents import match_report
from serve_app.http.search_schemas import NewReferenceBody, ReferenceBody, ReferenceRequest
from serve_app.http.searching import describe, vector_of
from serve_app.http.services import Services
from serve_app.index_worker import IndexWorker
from serve_app.posts import MediaSource, SimilarityReport
from serve_app.records.references import FloodLimit, Reference

log = logging.getLogger(__name__)
_CONTENT_TYPES = {"visual": "image", "joint": "image", "audio": "audio", "text": "text"}


async def create(
    services: Services, worker: IndexWorker, asked: ReferenceRequest, media: MediaSource | None, actor: str
) -> NewReferenceBody:
    """The index has the reference before past posts are looked for: one that is judged meanwhile meets it.

    Raises InvalidInput, ReferenceExists, ModelNotFound, SimilarityOff, or what a node raised."""
    _ = services.similarity
    content = await _content(services, asked, media)
    reference = Reference(
        reference_id=content.id,
        kind=asked.kind,
        owner=asked.owner,
        policy=asked.policy,
        title=asked.title,
        enabled=True,
        created_at=datetime.now(UTC),
        quarantined_at=None,
        quarantine_reason=None,
    )
    await services.records.references.create(reference, content, actor)
    answer, similarity = await _past_matches(services, worker, reference, content)
    limit = FloodLimit(services.indexing.quarantine_posts, services.indexing.quarantine_window_s)
    posts = {match.id for match in answer.matches}
    reference = await services.records.references.note_past(reference.reference_id, posts, limit)
    return NewReferenceBody(
        **_shown(reference),
        matches=[match_report(match) for match in answer.matches],
        truncated=answer.truncated,
        similarity=similarity,
    )


def body_of(reference: Reference) -> ReferenceBody:
    return ReferenceBody(**_shown(reference))


async def _content(services: Services, asked: ReferenceRequest, media: MediaSource | None) -> Content:
    id_ = asked.reference_id or f"ref-{uuid.uuid4().hex}"
    if (asked.vector is None) == (media is None):
        raise InvalidInput("Give either media or a vector of the work.", param="media_url")
    if media is not None:
        if asked.model is not None or asked.content_type is not None:
            raise InvalidInput("`model` and `content_type` are only for a vector.", param="model")
        content = await describe(services, media, "reference")
        return replace(content, id=id_, language=ANY, attributes={})
    assert asked.vector is not None
    modality, vector = await vector_of(services, asked.vector, asked.model)
    if not vector.vector.any():
        raise InvalidInput("A zero vector resembles nothing.", param="vector")
    content_type = asked.content_type.value if asked.content_type else _CONTENT_TYPES[modality]
    created_at = datetime.now(UTC).timestamp()
    return Content(id=id_, content_type=content_type, created_at=created_at, vectors={modality: vector})


async def _past_matches(
    services: Services, worker: IndexWorker, reference: Reference, content: Content
) -> tuple[MatchAnswer, SimilarityReport]:
    """The reference stands, whatever becomes of this search."""
    try:
        told = await worker.tell(reference.kind, reference.reference_id, services.indexing.match_timeout_s)
        if reference.kind == "negative":
            return MatchAnswer(), SimilarityReport(status="ok")
        if not told:
            return MatchAnswer(), SimilarityReport(status="failed", reason="the index did not take the reference yet")
        answer = await services.similarity.retroactive(content)
    except ParakhError as error:
        return MatchAnswer(), SimilarityReport(status="failed", reason=str(error))
    except Exception:  # whatever the search ran into, the reference is kept
        log.exception("past posts could not be searched for reference %s", reference.reference_id)
        return MatchAnswer(), SimilarityReport(status="failed", reason="the search failed on this reference")
    failed = "; ".join(sorted(answer.failed.values()))
    status = SimilarityReport(status="failed", reason=failed) if failed else SimilarityReport(status="ok")
    return answer, status


def _shown(reference: Reference) -> dict[str, Any]:
    return asdict(reference)
