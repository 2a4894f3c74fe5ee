"""Which errors a route can answer with, for its OpenAPI description: one schema, one line for each status."""

from __future__ import annotations

from typing import Any

from serve_app.http.schemas import ErrorBody

_WHY = {
    400: "The request is malformed.",
    401: "No valid API key.",
    403: "The API key lacks the scope.",
    404: "There is no such thing.",
    409: "The request conflicts with what is stored.",
    413: "A size limit is exceeded.",
    415: "The content type, container or format is not accepted.",
    422: "The media does not decode, or could not be fetched.",
    429: "The server is at capacity; see Retry-After.",
    500: "The server failed.",
    503: "A part of the service is not available; see Retry-After.",
    504: "The deadline passed.",
}
_EVERYWHERE = (400, 401, 403, 413, 500, 503, 504)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The given statuses and those that any route with a key can have."""
    return {status: {"model": ErrorBody, "description": _WHY[status]} for status in sorted({*_EVERYWHERE, *statuses})}


def multipart_of(part: str, model: str) -> dict[str, Any]:
    """The schema of a multipart body: the JSON in `part`, the file in `media`."""
    return {
        "type": "object",
        "required": [part],
        "properties": {
            part: {"$ref": f"#/components/schemas/{model}"},
            "media": {"type": "string", "format": "binary"},
        },
    }


def body_of(model: str, *, multipart: dict[str, Any] | None = None) -> dict[str, Any]:
    """The request body's part of OpenAPI, for routes that parse their body themselves."""
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}}}
    if multipart is not None:
        content["multipart/form-data"] = {"schema": multipart}
    return {"requestBody": {"required": True, "content": content}}
