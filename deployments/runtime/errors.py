"""The tree of errors a user can meet. Each class carries its HTTP status, OpenAI error type, code and a safe message.

    ParakhError
    ├── InvalidInput          400  the request's own fault
    │   ├── UrlRefused        400  the URL guard said no
    │   ├── TooLarge          413  a byte, pixel, duration or count cap
    │   ├── UnsupportedMedia  415  container or image format not on the list
    │   └── UndecodableMedia  422  the right container, but nothing in it decodes
    ├── NotFound              404  no such post, model or route
    ├── PartitionConflict     409  a partition is not in the state that this needs
    │   └── WrongEncoder      409  a vector of an encoder that the partition does not hold
    ├── FetchFailed           422  the media's own server did not deliver
    ├── Overloaded            429  queues are full; carries retry_after_s
    ├── NodeUnavailable       503  a node has no healthy replica
    │   └── StuckBatch        503  its oldest running batch is too old
    ├── LanguageModelUnavailable 503  one language's model cannot be loaded; the others can
    ├── DeadlineExceeded      504  the application's own deadline passed
    └── ModelError                 at load time: never reaches a client
        ├── MissingWeights         names the file and the command that mends it
        └── WrongWeights           names the file and the first mismatches

The message given to the constructor is shown to the client, so it never holds an internal exception's text.
"""

from __future__ import annotations

from typing import ClassVar


class ParakhError(Exception):
    """Base of all errors with a place in the API. `str(error)` is safe to show to a client."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    message: ClassVar[str] = "The server failed to handle the request."

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        super().__init__(message or self.message)
        self.param = param

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), str(self), self.__dict__)


def _rebuild(cls: type[ParakhError], message: str, state: dict[str, object]) -> ParakhError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class InvalidInput(ParakhError):
    status, type, code = 400, "invalid_request_error", "invalid_request"
    message = "The request is malformed."


class UrlRefused(InvalidInput):
    code = "url_refused"
    message = "The URL points to an address that is not allowed."


class TooLarge(InvalidInput):
    status, code = 413, "too_large"
    message = "The request exceeds a size limit."


class UnsupportedMedia(InvalidInput):
    status, code = 415, "unsupported_media"
    message = "The media's container or format is not accepted."


class UndecodableMedia(InvalidInput):
    status, code = 422, "undecodable_media"
    message = "The media does not decode."


class NotFound(ParakhError):
    status, type, code = 404, "invalid_request_error", "not_found"
    message = "There is no such thing here."


class PartitionConflict(ParakhError):
    status, type, code = 409, "invalid_request_error", "partition_conflict"
    message = "The partition is not in the state that this needs."


class WrongEncoder(PartitionConflict):
    code = "wrong_encoder"
    message = "The partition holds vectors of another encoder, and they cannot be compared."


class FetchFailed(ParakhError):
    status, type, code = 422, "invalid_request_error", "fetch_failed"
    message = "The media could not be fetched from its URL."


class Overloaded(ParakhError):
    status, type, code = 429, "rate_limit_error", "overloaded"
    message = "The server is at capacity; retry later."

    def __init__(self, message: str | None = None, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NodeUnavailable(ParakhError):
    status, type, code = 503, "server_error", "unavailable"
    message = "A part of the service that this request needs is not available."


class StuckBatch(NodeUnavailable):
    message = "A batch has been running for too long."


class LanguageModelUnavailable(ParakhError):
    """No ModelError and no NodeUnavailable: nobody of another language needs to wait for it."""

    status, type, code = 503, "server_error", "language_model_unavailable"
    message = "The model of this language cannot be loaded."


class DeadlineExceeded(ParakhError):
    status, type, code = 504, "server_error", "deadline_exceeded"
    message = "The request was not finished before its deadline."


class ModelError(ParakhError):
    status, code = 503, "model_unavailable"
    message = "A model could not be loaded."


class MissingWeights(ModelError):
    message = "A weight file is missing."


class WrongWeights(ModelError):
    message = "A weight file does not fit its model."
