"""/v1/posts: a post is moderated once, its verdict kept, read again, and erased."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from serve_app.http.auth import caller_of, require, sees_entries, services_of
from serve_app.http.intake import Answer, Intake
from serve_app.http.limits import time_left_s
from serve_app.http.responses import body_of, errors, multipart_of
from serve_app.http.schemas import PostStatusBody
from serve_app.http.submission import read_caller, read_submission
from serve_app.http.views import status_json, verdict_json
from serve_app.posts import Id, Verdict

router = APIRouter(prefix="/v1/posts", tags=["posts"])
PostId = Annotated[Id, Path(description="The post's id.")]
Revision = Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Default: the newest one.")]
_PENDING: dict[int | str, dict[str, Any]] = {202: {"model": PostStatusBody, "description": "Accepted, not yet judged."}}


@router.post(
    "",
    response_model=Verdict,
    responses=_PENDING | errors(409, 415, 422, 429),
    dependencies=[Depends(require("ingest"))],
    openapi_extra=body_of("PostRequest", multipart=multipart_of("post", "PostRequest")),
)
async def create_post(request: Request) -> Response:
    """Moderate a post and keep the verdict; `Prefer: respond-async` answers 202 as soon as the post is durable."""
    intake: Intake = request.app.state.intake
    caller = read_caller(request, caller_of(request))
    post, media = await read_submission(request, services_of(request).settings)
    return _answer(await intake.submit(post, media, caller, time_left_s(request)), entries=sees_entries(request))


@router.get(
    "/{post_id}",
    response_model=Verdict | PostStatusBody,
    responses=_PENDING | errors(404),
    dependencies=[Depends(require("read"))],
)
async def read_post(request: Request, post_id: PostId, revision: Revision = None) -> Response:
    """The verdict; 202 while the post waits or is judged; a failed job with its error."""
    state = await services_of(request).records.posts.find(post_id, revision)
    if state.verdict is not None:
        return JSONResponse(verdict_json(state.verdict, entries=sees_entries(request)))
    return JSONResponse(status_json(state), status_code=200 if state.status == "failed" else 202)


@router.delete("/{post_id}", status_code=204, responses=errors(404, 409), dependencies=[Depends(require("admin"))])
async def erase_post(request: Request, post_id: PostId) -> Response:
    """Erase all revisions of a post: media, verdicts, evidence, vectors. The audit entry stays."""
    services = services_of(request)
    await services.records.erasures.erase(post_id, caller_of(request) or "anonymous")
    if request.app.state.index_worker is not None:
        request.app.state.index_worker.wake()
    await services.records.garbage.sweep(services.media_store.delete)
    return Response(status_code=204)


def _answer(answer: Answer, *, entries: bool) -> Response:
    headers = {"Idempotency-Replayed": "true"} if answer.replayed else {}
    if answer.verdict is not None:
        return JSONResponse(verdict_json(answer.verdict, entries=entries), headers=headers)
    assert answer.pending is not None
    state = answer.pending
    headers |= {
        "Location": f"/v1/posts/{quote(state.post_id, safe='')}?revision={state.revision}",
        "Preference-Applied": "respond-async",
        "Retry-After": "1",
    }
    return JSONResponse(status_json(state), status_code=202, headers=headers)
