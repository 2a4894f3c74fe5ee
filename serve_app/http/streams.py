"""/v1/streams: clips of a livestream are judged as they come; what they add up to is the stream's state."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from deployments.runtime.errors import InvalidInput
from serve_app.http.auth import caller_of, require, services_of
from serve_app.http.errors import invalid_from
from serve_app.http.limits import time_left_s
from serve_app.http.responses import body_of, errors, multipart_of
from serve_app.http.services import Services
from serve_app.http.stream_schemas import ClipBody, ClipRequest, ClipsBody, PieceBody, StreamBody
from serve_app.http.submission import read_with_media
from serve_app.posts import Id, MediaSource
from serve_app.streams.intake import Taken
from serve_app.streams.pcm import Pcm, PcmFormat
from serve_app.streams.values import MAX_START_S, Clip, StreamState

router = APIRouter(prefix="/v1/streams", tags=["streams"])
StreamId = Annotated[Id, Path(description="The stream's id.")]
_SOUND: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_STORE_MARGIN_S = 0.25  # of the request's time, kept for storing the result
Built = TypeVar("Built", bound=BaseModel)


@router.post(
    "/{stream_id}/clips",
    response_model=ClipBody,
    responses=errors(404, 409, 415, 422, 429),
    dependencies=[Depends(require("ingest"))],
    openapi_extra=body_of("ClipRequest", multipart=multipart_of("clip", "ClipRequest")),
)
async def create_clip(request: Request, stream_id: StreamId) -> Response:
    """Judge one clip of at most 20.5 s, in order or not. The same clip again gives the stored result."""
    services = services_of(request)
    intake = services.streams
    asked, media = await read_with_media(request, ClipRequest, "clip", services.settings)
    if media is None:
        raise InvalidInput("The clip has no sound: give media_base64, media_url or the part `media`.", param="media")
    clip = _built(Clip, stream_id=stream_id, **asked.model_dump(exclude={"media_url", "media_base64"}))
    taken = await intake.take(clip, media, whole=True, deadline_s=_judging_s(request))
    return _answer(ClipBody(clip=taken.clips[0], stream=_body(services, taken.state)), taken)


@router.post(
    "/{stream_id}/audio",
    response_model=PieceBody,
    responses=errors(404, 409, 415, 422, 429),
    dependencies=[Depends(require("ingest"))],
    openapi_extra=_SOUND,
)
async def create_piece(
    request: Request,
    stream_id: StreamId,
    start_s: Annotated[float, Query(ge=0, le=MAX_START_S, description="Where the sound begins in the stream.")],
    created_at: Annotated[datetime, Query(description="When its last sample was recorded (RFC 3339).")],
    language: Annotated[str | None, Query(description="BCP-47 tag of what is spoken.")] = None,
    format: Annotated[PcmFormat | None, Query(description="The body is bare samples; otherwise a media file.")] = None,
    rate: Annotated[int, Query(description="Samples per second, of bare samples.")] = 16_000,
    channels: Annotated[int, Query(description="Channels, interleaved, of bare samples.")] = 1,
) -> Response:
    """Judge sound of any length: the body is cut into clips of 20 s, which are judged and stored one by one."""
    services = services_of(request)
    intake = services.streams
    piece = _built(Clip, stream_id=stream_id, start_s=start_s, created_at=created_at, language=language)
    pcm = None if format is None else Pcm(format, rate, channels)
    sound = MediaSource(data=await request.body())
    taken = await intake.take(piece, sound, pcm, whole=False, deadline_s=_judging_s(request))
    return _answer(PieceBody(clips=taken.clips, stream=_body(services, taken.state)), taken)


@router.get("/{stream_id}", response_model=StreamBody, responses=errors(404), dependencies=[Depends(require("read"))])
async def read_stream(request: Request, stream_id: StreamId) -> StreamBody:
    """The stream's state: its action, the flags that stand and the newest windows."""
    services = services_of(request)
    return _body(services, await services.records.streams.state(stream_id))


@router.get(
    "/{stream_id}/clips", response_model=ClipsBody, responses=errors(404), dependencies=[Depends(require("read"))]
)
async def read_clips(
    request: Request,
    stream_id: StreamId,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before_s: Annotated[float | None, Query(ge=0, le=MAX_START_S, description="Clips that begin before this.")] = None,
) -> ClipsBody:
    """Results of clips, newest first."""
    streams = services_of(request).records.streams
    await streams.state(stream_id)
    before_ms = None if before_s is None else round(before_s * 1000)
    return ClipsBody(clips=await streams.clips(stream_id, limit, before_ms))


@router.delete("/{stream_id}", status_code=204, responses=errors(404), dependencies=[Depends(require("admin"))])
async def erase_stream(request: Request, stream_id: StreamId) -> Response:
    """Erase a stream's clips and state; its id is never taken again. The audit entry stays."""
    await services_of(request).records.streams.erase(stream_id, caller_of(request) or "anonymous")
    return Response(status_code=204)


def _answer(body: BaseModel, taken: Taken) -> JSONResponse:
    return JSONResponse(
        body.model_dump(mode="json"), headers={"Idempotency-Replayed": "true"} if taken.replayed else {}
    )


def _judging_s(request: Request) -> float:
    return max(0.05, time_left_s(request) - _STORE_MARGIN_S)


def _body(services: Services, state: StreamState) -> StreamBody:
    return StreamBody.of(state, services.stream_windows)


def _built(model: type[Built], **fields: Any) -> Built:
    """Raises InvalidInput that names the field."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise invalid_from(error) from None
