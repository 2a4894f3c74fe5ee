"""/v1/gate: a post at a milestone of views is reviewed or skipped, decided once."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Depends, Request

from serve_app.gating import Gating
from serve_app.http.auth import require
from serve_app.http.body import read_json
from serve_app.http.gate_schemas import GateBody, GateRequest
from serve_app.http.responses import body_of, errors
from serve_app.records.values import ViewCount

router = APIRouter(prefix="/v1/gate", tags=["review"])


@router.post(
    "",
    response_model=GateBody,
    responses=errors(404, 409, 415, 429),
    dependencies=[Depends(require("ingest"))],
    openapi_extra=body_of("GateRequest"),
)
async def decide(request: Request) -> GateBody:
    """Decide a milestone at once. Asked again, or told by an event before, it answers the decision that stands."""
    gating: Gating = request.app.state.gating
    asked = await read_json(request, GateRequest)
    count = ViewCount(asked.post_id, asked.views, asked.at or datetime.now(UTC))
    return GateBody.of(await gating.decide_now(count, asked.milestone))
