"""/v1/reviews: the moderators' queue. Claim what is due first, decide it, take a decision back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from serve_app.http.auth import caller_of, is_admin, require, services_of
from serve_app.http.body import read_json
from serve_app.http.gate_schemas import ClaimBody, ClaimRequest, DecisionRequest, ReviewBody
from serve_app.http.responses import body_of, errors
from serve_app.posts import Id
from serve_app.records.gate_values import Review
from serve_app.records.reviews import ReviewStore

router = APIRouter(prefix="/v1", tags=["review"], dependencies=[Depends(require("review"))])
ReviewId = Annotated[Id, Path(description="The review's id.")]


@router.post("/reviews:claim", response_model=ClaimBody, responses=errors(415), openapi_extra=body_of("ClaimRequest"))
async def claim(request: Request) -> ClaimBody:
    """Lock the reviews that are due first for this moderator; nobody else is given them until the lock is over."""
    asked = await read_json(request, ClaimRequest)
    claimed = await _store(request).claim(_reviewer(request), asked.n, asked.languages)
    return ClaimBody(reviews=[_body(review) for review in claimed])


@router.get("/reviews/{review_id}", response_model=ReviewBody, responses=errors(404))
async def read_review(request: Request, review_id: ReviewId) -> ReviewBody:
    """A review as it stands."""
    return _body(await _store(request).find(review_id))


@router.post(
    "/reviews/{review_id}/decision",
    response_model=ReviewBody,
    responses=errors(404, 409, 415),
    openapi_extra=body_of("DecisionRequest"),
)
async def decide(request: Request, review_id: ReviewId) -> ReviewBody:
    """Store what the moderator found. Only who claimed it may; the same decision again changes nothing."""
    asked = await read_json(request, DecisionRequest)
    return _body(await _store(request).decide(review_id, _reviewer(request), asked.outcome, asked.category, asked.note))


@router.post("/reviews/{review_id}/undo", response_model=ReviewBody, responses=errors(404, 409))
async def undo(request: Request, review_id: ReviewId) -> ReviewBody:
    """Take a decision back: the review is open again, and with the moderator who undid it."""
    return _body(await _store(request).undo(review_id, _reviewer(request), admin=is_admin(request)))


def _store(request: Request) -> ReviewStore:
    return services_of(request).records.reviews


def _reviewer(request: Request) -> str:
    return caller_of(request) or "anonymous"


def _body(review: Review) -> ReviewBody:
    return ReviewBody.of(review, datetime.now(UTC))
