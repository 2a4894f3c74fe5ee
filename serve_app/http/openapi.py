"""The description of the API: bodies that routes parse themselves are added, the framework's own 422 is removed."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from serve_app.http import search_schemas
from serve_app.http.gate_schemas import ClaimRequest, DecisionRequest, GateRequest
from serve_app.http.schemas import EmbeddingRequest, ModerationRequest, PostRequest
from serve_app.http.stream_schemas import ClipRequest

_REQUESTS: tuple[type[BaseModel], ...] = (
    EmbeddingRequest,
    ModerationRequest,
    PostRequest,
    search_schemas.SearchRequest,
    search_schemas.SearchBatchRequest,
    search_schemas.ItemFields,
    search_schemas.UpsertItem,
    search_schemas.DeleteItem,
    search_schemas.ItemsBatchRequest,
    search_schemas.ReferenceRequest,
    search_schemas.ReferencePatch,
    search_schemas.ReferenceBatchRequest,
    search_schemas.ShownMark,
    search_schemas.ShownCheck,
    ClipRequest,
    GateRequest,
    ClaimRequest,
    DecisionRequest,
)
_REFERENCE = "#/components/schemas/{model}"


def install_openapi(app: FastAPI) -> None:
    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _describe(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in _REQUESTS:
        described = model.model_json_schema(ref_template=_REFERENCE)
        schemas.update(described.pop("$defs", {}))
        schemas[model.__name__] = described
    for path in found["paths"].values():
        for operation in path.values():
            _drop_framework_422(operation)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    found["security"] = [{"bearer": []}, {"api_key": []}]
    return found


def _drop_framework_422(operation: dict[str, Any]) -> None:
    """Malformed parameters are a 400 here; 422 is media that does not decode."""
    if "HTTPValidationError" in str(operation["responses"].get("422", "")):
        del operation["responses"]["422"]
