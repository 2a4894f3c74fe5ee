"""/v1/search: what resembles this post, vector, text or media."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request

from serve_app.http.auth import is_admin, require, services_of
from serve_app.http.batches import check_size, each
from serve_app.http.body import read_json
from serve_app.http.errors import NotAllowed
from serve_app.http.responses import body_of, errors, multipart_of
from serve_app.http.search_schemas import SearchBatchBody, SearchBatchRequest, SearchBody, SearchRequest
from serve_app.http.searching import search
from serve_app.http.submission import read_media, read_with_media

router = APIRouter(prefix="/v1", tags=["search"], dependencies=[Depends(require("read"))])


@router.post(
    "/search",
    response_model=SearchBody,
    responses=errors(404, 409, 415, 422, 429),
    openapi_extra=body_of("SearchRequest", multipart=multipart_of("search", "SearchRequest")),
)
async def create_search(request: Request) -> SearchBody:
    """The nearest posts, best first: to a post, a vector, a text, or to media, which is embedded first."""
    services = services_of(request)
    asked, media = await read_with_media(request, SearchRequest, "search", services.settings)
    _check_allowed(request, asked)
    return await search(services, asked, media)


@router.post(
    "/search:batch",
    response_model=SearchBatchBody,
    responses=errors(404, 415, 429),
    openapi_extra=body_of("SearchBatchRequest"),
)
async def create_searches(request: Request) -> Any:
    """Many searches, each with its own results or its own error."""
    services = services_of(request)
    asked = await read_json(request, SearchBatchRequest)
    check_size(asked.searches, services.indexing.max_batch, "searches")
    _ = services.similarity

    async def answer(one: SearchRequest) -> SearchBody:
        _check_allowed(request, one)
        return await search(services, one, await read_media(one, services.settings))

    return SearchBatchBody(answers=await each(asked.searches, SearchRequest, answer))


def _check_allowed(request: Request, asked: SearchRequest) -> None:
    """An exact search reads whole partitions in the threads that posts are matched in: a few would stop that."""
    if is_admin(request):
        return
    if asked.bank != "posts":
        raise NotAllowed(f"Searching the bank `{asked.bank}` needs the scope `admin`.")
    if asked.exact:
        raise NotAllowed("An exact search needs the scope `admin`.")
