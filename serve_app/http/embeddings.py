"""POST /v1/embeddings: OpenAI's endpoint over this service's own encoders."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from serve_app.http.auth import require, services_of
from serve_app.http.body import read_json
from serve_app.http.embedding import embed
from serve_app.http.responses import body_of, errors
from serve_app.http.schemas import EmbeddingBody, EmbeddingRequest

router = APIRouter(prefix="/v1", tags=["embeddings"], dependencies=[Depends(require("ingest"))])


@router.post(
    "/embeddings",
    response_model=EmbeddingBody,
    responses=errors(404, 415, 422, 429),
    openapi_extra=body_of("EmbeddingRequest"),
)
async def create_embedding(request: Request) -> EmbeddingBody:
    """Vectors of unit length: `xlmr` and `clip-text` for texts, `clip` for images by URL."""
    return await embed(services_of(request), await read_json(request, EmbeddingRequest))
