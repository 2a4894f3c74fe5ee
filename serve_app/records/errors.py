"""What the records refuse: nearly every class a 409 or a 404 that the client can act on.

ParakhError
├── Conflict                 409
│   ├── RevisionConflict     this revision exists with other content
│   ├── PostErased           the post was erased; its id is never taken again
│   ├── IdempotencyConflict  the key was used for another request
│   ├── IdempotencyInProgress  the key's first request is still running; carries retry_after_s
│   ├── UnderLegalHold       the post is evidence: it is not erased
│   ├── ReferenceExists      the id of a reference is taken
│   ├── ClipConflict         this clip of the stream exists with other sound
│   ├── StreamErased         the stream was erased; its id is never taken again
│   ├── NotJudgedYet         the gate has no scores to decide by
│   ├── ReviewNotHeld        the review is with another moderator, or with nobody
│   ├── ReviewDecided        the review has another outcome
│   └── UndoRefused          the decision can no longer be taken back
├── PostNotFound             404
├── ReferenceNotFound        404
├── HashListNotFound         404
├── StreamNotFound           404
├── ClipNotFound             404
├── ReviewNotFound           404
├── DeadLetterNotFound       404
├── MediaBeingDeleted        503, where waiting for the sweep to finish takes too long
└── LeaseLost                the job went to another worker; never reaches a client
"""

from __future__ import annotations

from deployments.runtime.errors import NodeUnavailable, NotFound, ParakhError


class Conflict(ParakhError):
    status, type, code = 409, "invalid_request_error", "conflict"
    message = "The request conflicts with what is stored."


class RevisionConflict(Conflict):
    code = "revision_conflict"
    message = "This revision of the post exists with other content; raise `revision` for an edited post."


class PostErased(Conflict):
    code = "post_erased"
    message = "The post was erased; its id cannot be used again."


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"
    message = "This Idempotency-Key was used for another request."


class IdempotencyInProgress(Conflict):
    code = "idempotency_in_progress"
    message = "The first request with this Idempotency-Key is still running; retry later."

    def __init__(self, message: str | None = None, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnderLegalHold(Conflict):
    code = "legal_hold"
    message = "The post is under legal hold: its evidence is kept, and it cannot be erased."


class ReferenceExists(Conflict):
    code = "reference_exists"
    message = "There is a reference with this id."


class ClipConflict(Conflict):
    code = "clip_conflict"
    message = "This clip of the stream exists with other sound."


class StreamErased(Conflict):
    code = "stream_erased"
    message = "The stream was erased; its id cannot be used again."


class NotJudgedYet(Conflict):
    code = "not_judged"
    message = "The post has no verdict yet, and the gate decides by its scores; retry later."


class ReviewNotHeld(Conflict):
    code = "review_not_held"
    message = "The review is not yours: claim it first."


class ReviewDecided(Conflict):
    code = "review_decided"
    message = "The review has another outcome already."


class UndoRefused(Conflict):
    code = "undo_refused"
    message = "The decision can no longer be taken back."


class ReferenceNotFound(NotFound):
    code = "reference_not_found"
    message = "There is no such reference."


class HashListNotFound(NotFound):
    code = "hash_list_not_found"
    message = "There is no such hash list."


class PostNotFound(NotFound):
    code = "post_not_found"
    message = "There is no such post or revision."


class StreamNotFound(NotFound):
    code = "stream_not_found"
    message = "There is no such stream."


class ClipNotFound(NotFound):
    code = "clip_not_found"
    message = "There is no such clip of the stream."


class ReviewNotFound(NotFound):
    code = "review_not_found"
    message = "There is no such review."


class DeadLetterNotFound(NotFound):
    code = "dead_letter_not_found"
    message = "There is no such dead letter."


class MediaBeingDeleted(NodeUnavailable):
    message = "The same media is being deleted at this moment; retry later."


class LeaseLost(ParakhError):
    message = "The job went to another worker."
