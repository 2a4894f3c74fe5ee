"""POST /v1/moderations: OpenAI's moderation endpoint. Answers, and stores nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Iterable
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from serve_app.http.auth import require, sees_entries, services_of
from serve_app.http.body import off_loop_if_big, read_json
from serve_app.http.errors import ModelNotFound
from serve_app.http.limits import time_left_s
from serve_app.http.moderation import Question, questions, result_of
from serve_app.http.responses import body_of, errors
from serve_app.http.schemas import ModerationBody, ModerationRequest, ModerationResult
from serve_app.http.services import Services
from serve_app.http.views import moderation_json

ACCEPTED_MODELS = ("omni-moderation-latest", "text-moderation-latest")
router = APIRouter(prefix="/v1", tags=["moderations"], dependencies=[Depends(require("ingest"))])


@router.post(
    "/moderations",
    response_model=ModerationBody,
    responses=errors(404, 415, 422, 429),
    openapi_extra=body_of("ModerationRequest"),
)
async def create_moderation(request: Request) -> Response:
    """Judge a text, a list of texts, or parts (text with one image, video or sound). Nothing is stored."""
    services = services_of(request)
    asked = await read_json(request, ModerationRequest)
    if asked.model not in (None, services.model_name, *ACCEPTED_MODELS):
        raise ModelNotFound(f"The model `{asked.model}` does not exist.", param="model")
    size_bytes = len(await request.body())
    found = await off_loop_if_big(size_bytes, questions, asked.input, services.settings)
    deadline_s = time_left_s(request)
    results = await _all(_answer(services, question, deadline_s) for question in found)
    body = ModerationBody(id=f"modr-{uuid.uuid4().hex}", model=services.model_name, results=results)
    return JSONResponse(moderation_json(body, entries=sees_entries(request)))


async def _answer(services: Services, question: Question, deadline_s: float) -> ModerationResult:
    verdict = await services.moderator.moderate(question.post, question.media, deadline_s=deadline_s)
    return result_of(question, verdict)


async def _all(answers: Iterable[Coroutine[Any, Any, ModerationResult]]) -> list[ModerationResult]:
    """All results in order, or the first error: then the others are cancelled, nobody waits for them."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer) for answer in answers]
    except ExceptionGroup as errors_of_group:
        raise errors_of_group.exceptions[0] from None
    return [task.result() for task in tasks]
