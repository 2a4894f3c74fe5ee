"""/v1/references: protected works, and works that never match."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from serve_app.http.auth import caller_of, require, services_of
from serve_app.http.batches import check_size, each
from serve_app.http.body import read_json
from serve_app.http.referencing import body_of as shown
from serve_app.http.referencing import create
from serve_app.http.responses import body_of, errors, multipart_of
from serve_app.http.search_schemas import (
    NewReferenceBody,
    ReferenceBatchBody,
    ReferenceBatchRequest,
    ReferenceBody,
    ReferenceId,
    ReferencePatch,
    ReferenceRequest,
    ReferencesBody,
)
from serve_app.http.submission import read_media, read_with_media

router = APIRouter(prefix="/v1", tags=["references"])
PathId = Annotated[ReferenceId, Path(description="The reference's id.")]
After = Annotated[str, Query(max_length=160, description="Ids greater than this one; `next_after` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post(
    "/references",
    status_code=201,
    response_model=NewReferenceBody,
    responses=errors(404, 409, 415, 422, 429),
    dependencies=[Depends(require("admin"))],
    openapi_extra=body_of("ReferenceRequest", multipart=multipart_of("reference", "ReferenceRequest")),
)
async def create_reference(request: Request) -> NewReferenceBody:
    """Keep a work; answers with the past posts that match it. It acts within a second."""
    services = services_of(request)
    asked, media = await read_with_media(request, ReferenceRequest, "reference", services.settings)
    return await create(services, request.app.state.index_worker, asked, media, caller_of(request) or "anonymous")


@router.post(
    "/references:batch",
    response_model=ReferenceBatchBody,
    responses=errors(404, 415, 429),
    dependencies=[Depends(require("admin"))],
    openapi_extra=body_of("ReferenceBatchRequest"),
)
async def create_references(request: Request) -> ReferenceBatchBody:
    """Many works, each with its own answer or error."""
    services = services_of(request)
    asked = await read_json(request, ReferenceBatchRequest)
    check_size(asked.references, services.indexing.max_batch, "references")
    _ = services.similarity
    actor = caller_of(request) or "anonymous"

    async def answer(one: ReferenceRequest) -> NewReferenceBody:
        media = await read_media(one, services.settings)
        return await create(services, request.app.state.index_worker, one, media, actor)

    return ReferenceBatchBody(results=await each(asked.references, ReferenceRequest, answer))


@router.get(
    "/references",
    response_model=ReferencesBody,
    responses=errors(),
    dependencies=[Depends(require("read"))],
)
async def list_references(
    request: Request, after: After = "", limit: Limit = 100, quarantined: bool | None = None
) -> ReferencesBody:
    """References by id; `quarantined=true` only those that matched too much."""
    store = services_of(request).records.references
    page = await store.list(after, limit, quarantined=quarantined)
    next_after = page[-1].reference_id if len(page) == limit else None
    return ReferencesBody(references=[shown(reference) for reference in page], next_after=next_after)


@router.get(
    "/references/{reference_id}",
    response_model=ReferenceBody,
    responses=errors(404),
    dependencies=[Depends(require("read"))],
)
async def read_reference(request: Request, reference_id: PathId) -> ReferenceBody:
    return shown(await services_of(request).records.references.find(reference_id))


@router.patch(
    "/references/{reference_id}",
    response_model=ReferenceBody,
    responses=errors(404, 415),
    dependencies=[Depends(require("admin"))],
    openapi_extra=body_of("ReferencePatch"),
)
async def change_reference(request: Request, reference_id: PathId) -> ReferenceBody:
    """Enable or disable it, lift its quarantine, change its policy, owner or title."""
    asked = await read_json(request, ReferencePatch)
    changes = asked.model_dump(exclude_unset=True)
    changed = await services_of(request).records.references.change(
        reference_id, caller_of(request) or "anonymous", **changes
    )
    return shown(changed)


@router.delete(
    "/references/{reference_id}",
    status_code=204,
    responses=errors(404),
    dependencies=[Depends(require("admin"))],
)
async def delete_reference(request: Request, reference_id: PathId) -> Response:
    """It matches no more, within a second."""
    await services_of(request).records.references.delete(reference_id, caller_of(request) or "anonymous")
    return Response(status_code=204)
