"""Request bodies to values: JSON read strictly (UTF-8, no NaN, bounded depth), base64 and data: URLs undone.

Own parsing rather than the framework's, so that a broken body is a 400 in the one error shape, never a 500. What is
big is undone in a thread, piece by piece, so that the event loop goes on serving the others.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from deployments.runtime.errors import InvalidInput, TooLarge
from serve_app.http.errors import WrongContentType, invalid_from

P = ParamSpec("P")
Result = TypeVar("Result")
Model = TypeVar("Model", bound=BaseModel)
BIG_BYTES = 256 * 1024  # from here on a hop to a thread costs less than holding the event loop
MAX_PLAIN_DATA_URL_CHARS = 8192
_PIECE_CHARS = 1024 * 1024  # of base64, a multiple of four: other threads get their turn in between
_DATA_URL = re.compile(r"data:(?P<kind>[^,;]*)(?P<parameters>(;[^,;]*)*),", re.IGNORECASE)


async def read_json(request: Request, model: type[Model]) -> Model:
    """The request's JSON body as `model`. Raises InvalidInput or WrongContentType."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise WrongContentType
    body = await request.body()
    return await off_loop_if_big(len(body), parse_json, body, model)


async def off_loop_if_big(size_bytes: int, call: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Result:
    """`call(...)`, in a thread where its input is big."""
    return call(*args, **kwargs) if size_bytes < BIG_BYTES else await asyncio.to_thread(call, *args, **kwargs)


def parse_json(data: bytes | bytearray, model: type[Model]) -> Model:
    try:
        value: Any = from_json(data, allow_inf_nan=False)
    except ValueError:
        raise InvalidInput("The body is not valid JSON in UTF-8.") from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise invalid_from(error) from None


def decode_base64(text: str, *, max_bytes: int, param: str) -> bytes:
    if len(text) // 4 * 3 > max_bytes + 2:
        raise TooLarge(f"{param} is larger than {max_bytes} bytes.", param=param)
    try:
        if text.find("=", 0, -2) != -1:
            raise ValueError("padding in the middle")
        pieces = (text[start : start + _PIECE_CHARS] for start in range(0, len(text), _PIECE_CHARS))
        data = b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{param} is not valid base64.", param=param) from None
    if len(data) > max_bytes:
        raise TooLarge(f"{param} is larger than {max_bytes} bytes.", param=param)
    return data


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def is_http_url(url: str) -> bool:
    return url[:7].lower() == "http://" or url[:8].lower() == "https://"


def decode_data_url(url: str, *, max_bytes: int, param: str) -> bytes:
    """The bytes of a data: URL (RFC 2397). Its media type is not believed: the decoder looks at the bytes."""
    head = _DATA_URL.match(url[:512])
    if head is None:
        raise InvalidInput(f"{param} is not a valid data: URL.", param=param)
    payload = url[head.end() :]
    if head["parameters"].lower().endswith(";base64"):
        return decode_base64(payload, max_bytes=max_bytes, param=param)
    if len(payload) > MAX_PLAIN_DATA_URL_CHARS:
        message = f"{param}: a data: URL of more than {MAX_PLAIN_DATA_URL_CHARS} characters must be in base64."
        raise TooLarge(message, param=param)
    data = unquote_to_bytes(payload)
    if len(data) > max_bytes:
        raise TooLarge(f"{param} is larger than {max_bytes} bytes.", param=param)
    return data
