"""One error shape on every route: `{"error": {message, type, param, code}, "request_id"}`.

An exception with a place in the API carries its own status, code and safe message. Anything else becomes a constant
500; only the log has its trace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from deployments.runtime.errors import InvalidInput, NotFound, ParakhError

_HTTP_CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_HTTP_MESSAGES = {404: "There is no such route.", 405: "This route does not take that method."}
_INPUT_KINDS = re.compile(r"^(<\w+>|str|bytes|function-\w+\(.*\)|list\[.*\]|[A-Z]\w*)$")


class NotAuthenticated(ParakhError):
    status, type, code = 401, "authentication_error", "invalid_api_key"
    message = "Give a valid API key: `Authorization: Bearer pk_...` or `X-API-Key: pk_...`."


class NotAllowed(ParakhError):
    status, type, code = 403, "permission_error", "insufficient_scope"
    message = "The API key lacks the scope this route needs."


class ModelNotFound(NotFound):
    code = "model_not_found"
    message = "There is no such model."


class PartitionNotFound(NotFound):
    code = "partition_not_found"
    message = "There is no such partition."


class ItemNotFound(NotFound):
    code = "item_not_found"
    message = "There is no such item in the partition."


class MediaRequired(InvalidInput):
    code = "media_required"
    message = "A post of this content_type needs media: media_url, media_base64 or a multipart part `media`."


class WrongContentType(InvalidInput):
    status, code = 415, "unsupported_content_type"
    message = "Send application/json."


def error_body(message: str, kind: str, code: str, request_id: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}, "request_id": request_id}


def error_object(error: ParakhError) -> dict[str, Any]:
    """The `error` part alone: kept with a failed job."""
    return {"message": str(error), "type": error.type, "param": getattr(error, "param", None), "code": error.code}


def recorded_error(kept: Mapping[str, Any]) -> ParakhError:
    """A kept `error_object` as the exception it was."""
    kinds = {kind.code: kind for kind in reversed(_tree(ParakhError))}
    error = ParakhError.__new__(kinds.get(str(kept["code"]), ParakhError))
    Exception.__init__(error, kept["message"])
    error.param = kept["param"]
    return error


def _tree(kind: type[ParakhError]) -> list[type[ParakhError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _tree(child))]


def render(error: ParakhError, request_id: str) -> JSONResponse:
    return JSONResponse(
        {"error": error_object(error), "request_id": request_id}, status_code=error.status, headers=headers_of(error)
    )


def headers_of(error: ParakhError) -> dict[str, str]:
    headers = {}
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None or error.status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s or 1)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def request_id_of(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    app.state.routers = routers
    app.add_exception_handler(ParakhError, _parakh_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _parakh_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ParakhError)
    if error.status >= 500 and error.code == ParakhError.code:
        raise error  # an internal error in disguise: logged and answered like any other
    return render(error, request_id_of(request))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "http_error")
    message = _HTTP_MESSAGES.get(error.status_code, "The request cannot be handled.")
    body = error_body(message, "invalid_request_error", code, request_id_of(request))
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    return JSONResponse(body, status_code=error.status_code, headers=headers)


def _allowed(request: Request) -> str:
    """All methods of the path; the framework names only those of the first route that fits."""
    routes = [route for router in request.app.state.routers for route in router.routes if isinstance(route, Route)]
    fitting = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in fitting for method in route.methods or ()}))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return render(invalid_from(error.errors()), request_id_of(request))


def invalid_from(problems: ValidationError | Sequence[Mapping[str, Any]]) -> InvalidInput:
    """The first problem as an InvalidInput whose `param` is the field's path. The offending value is not repeated."""
    found = (
        problems.errors(include_url=False, include_input=False) if isinstance(problems, ValidationError) else problems
    )
    first = found[0]
    param = _path(first["loc"]) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return InvalidInput(f"{param}: {message}" if param else message, param=param)


def _path(location: Sequence[int | str]) -> str:
    """`input.0.image_url.url` of pydantic's location, without the names of its union members."""
    path: list[str] = []
    for step in map(str, location):
        said_before = path and path[-1] == step  # a part's type, then its field of the same name
        if not said_before and step not in ("body", "query", "path") and not _INPUT_KINDS.match(step):
            path.append(step)
    return ".".join(path)
