"""/v1/shown: a feed asks, before it shows something, whether it has shown the same lately."""

from __future__ import annotations

import time
from dataclasses import replace

from fastapi import APIRouter, Depends, Request, Response

from deployments.runtime.errors import InvalidInput
from deployments.similarity.content import ANY, Content
from serve_app.contents import match_report
from serve_app.http.auth import require, services_of
from serve_app.http.responses import body_of, errors, multipart_of
from serve_app.http.search_schemas import ShownBody, ShownCheck, ShownMark, ShownRequest
from serve_app.http.searching import describe
from serve_app.http.services import Services
from serve_app.http.submission import read_with_media
from serve_app.posts import MediaSource

router = APIRouter(prefix="/v1", tags=["shown"])


@router.post(
    "/shown",
    status_code=204,
    responses=errors(404, 415, 422, 429),
    dependencies=[Depends(require("ingest"))],
    openapi_extra=body_of("ShownMark", multipart=multipart_of("shown", "ShownMark")),
)
async def mark_shown(request: Request) -> Response:
    """The feed shows it."""
    services = services_of(request)
    asked, media = await read_with_media(request, ShownMark, "shown", services.settings)
    at = time.time() if asked.shown_at is None else asked.shown_at.timestamp()
    if at > time.time() + 300:
        raise InvalidInput("shown_at lies in the future.", param="shown_at")
    await services.similarity.mark_shown(await _content(services, asked, media), asked.feed, at)
    return Response(status_code=204)


@router.post(
    "/shown:check",
    response_model=ShownBody,
    responses=errors(404, 415, 422, 429),
    dependencies=[Depends(require("read"))],
    openapi_extra=body_of("ShownCheck", multipart=multipart_of("shown", "ShownCheck")),
)
async def check_shown(request: Request) -> ShownBody:
    """Whether the feed showed it, or the same under another id, within the last hours."""
    services = services_of(request)
    asked, media = await read_with_media(request, ShownCheck, "shown", services.settings)
    content = await _content(services, asked, media)
    answer = await services.similarity.was_shown(content, asked.feed, asked.within_hours * 3600)
    matches = [match_report(match) for match in answer.matches]
    return ShownBody(shown=bool(matches), matches=matches, failed=dict(answer.failed))


async def _content(services: Services, asked: ShownRequest, media: MediaSource | None) -> Content:
    _ = services.similarity
    if (asked.post_id is None) == (media is None):
        raise InvalidInput("Give either post_id or media.", param="post_id")
    if media is not None:
        content = await describe(services, media, "shown")
        return replace(content, id=f"sha256:{content.sha256}")  # each file is remembered for itself
    assert asked.post_id is not None
    return Content(id=asked.post_id, content_type=ANY)
