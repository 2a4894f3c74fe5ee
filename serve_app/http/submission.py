"""JSON or multipart to what was asked and its media; for POST /v1/posts also the headers to who asks for what."""

from __future__ import annotations

import re
from typing import TypeVar

from fastapi import Request

from deployments.runtime.errors import InvalidInput
from serve_app.http.body import decode_base64, decode_data_url, is_data_url, off_loop_if_big, parse_json, read_json
from serve_app.http.intake import Caller
from serve_app.http.multipart import is_multipart, read_parts
from serve_app.http.schemas import PostRequest
from serve_app.http.search_schemas import MediaFields
from serve_app.http.settings import HttpSettings
from serve_app.posts import MediaSource, Post

MAX_URL_CHARS = 8192
_URL = re.compile(rf"(?=.{{1,{MAX_URL_CHARS}}}$)https?://[^\s\x00-\x20\x7f]+", re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


HasMedia = PostRequest | MediaFields
Asked = TypeVar("Asked", bound=HasMedia)


def read_caller(request: Request, owner: str) -> Caller:
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key must be 1 to 255 visible ASCII characters.", param="Idempotency-Key")
    preferences = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return Caller(owner, key, respond_async="respond-async" in (wish.partition(";")[0].strip() for wish in preferences))


async def read_submission(request: Request, settings: HttpSettings) -> tuple[Post, MediaSource | None]:
    asked, media = await read_with_media(request, PostRequest, "post", settings)
    return asked.as_post(), media


async def read_with_media(
    request: Request, model: type[Asked], part: str, settings: HttpSettings
) -> tuple[Asked, MediaSource | None]:
    """A JSON body, or a multipart request with the JSON in `part` and the file in `media`.

    Raises InvalidInput, TooLarge or WrongContentType.
    """
    if not is_multipart(request):
        asked = await read_json(request, model)
        return asked, await read_media(asked, settings)
    parts = await read_parts(request, {part: settings.max_json_bytes, "media": settings.max_media_bytes})
    if part not in parts:
        raise InvalidInput(f"The multipart request lacks its part `{part}`.", param=part)
    asked = parse_json(parts[part], model)
    media = await read_media(asked, settings)
    if "media" not in parts:
        return asked, media
    if media is not None:
        raise InvalidInput("Give the media once: as part, media_url or media_base64.", param="media")
    return asked, _bytes(parts["media"], "media")


async def read_media(asked: HasMedia, settings: HttpSettings) -> MediaSource | None:
    """What media_url or media_base64 name. Raises InvalidInput, TooLarge."""
    size_bytes = len(asked.media_url or "") + len(asked.media_base64 or "")
    return await off_loop_if_big(size_bytes, _media_of, asked, settings)


def _media_of(asked: HasMedia, settings: HttpSettings) -> MediaSource | None:
    if asked.media_url is not None and asked.media_base64 is not None:
        raise InvalidInput("Give either media_url or media_base64.", param="media_base64")
    if asked.media_base64 is not None:
        cap = settings.max_media_bytes
        return _bytes(decode_base64(asked.media_base64, max_bytes=cap, param="media_base64"), "media_base64")
    if asked.media_url is None:
        return None
    if is_data_url(asked.media_url):
        cap = settings.max_media_bytes
        return _bytes(decode_data_url(asked.media_url, max_bytes=cap, param="media_url"), "media_url")
    if not _URL.fullmatch(asked.media_url):
        raise InvalidInput(
            f"media_url must be an http or https URL of at most {MAX_URL_CHARS} characters.", param="media_url"
        )
    return MediaSource(url=asked.media_url)


def _bytes(data: bytes, param: str) -> MediaSource:
    if not data:
        raise InvalidInput("The media is empty.", param=param)
    return MediaSource(data=data)
