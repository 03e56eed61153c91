"""Everything that can go wrong with a request, and what it is called on each wire.

ServiceError
├── InvalidRequest          a field is wrong; the message says what would be right
├── ModelNotFound           no such model or version
├── RequestTooLarge         the body exceeds the limit
├── Overloaded              no place in the queue; carries ``retry_after_s``
├── ClientClosed            the client hung up before the answer
├── DeadlineExceeded        no answer within the request's time
├── BackendFailed           the model's graph failed
└── BackendUnavailable      the model cannot be reached or is not ready
    └── Draining            this server is stopping

``ERROR_TABLE`` is the one place that maps them to HTTP, ``error_type`` and gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class ServiceError(Exception):
    """A request that is not answered; the message is written for the client and quotes no text of a request at length.

    ``retry_after_s``: after how many seconds another try makes sense, None where nothing is known of that.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class InvalidRequest(ServiceError):
    """A field is wrong; the message names it and says what would be right."""


class ModelNotFound(ServiceError):
    """No such model or version, or no such route."""


class RequestTooLarge(ServiceError):
    """The body exceeds ``max_body_bytes``."""


class Overloaded(ServiceError):
    """The queue is full; trying again after ``retry_after_s`` seconds makes sense."""

    retry_after_s: float

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class ClientClosed(ServiceError):
    """The client hung up; nobody reads this answer, but logs and metrics do."""


class DeadlineExceeded(ServiceError):
    """No answer within the request's time."""


class BackendFailed(ServiceError):
    """The model's graph failed on this input."""


class BackendUnavailable(ServiceError):
    """The model cannot be reached or is not ready yet."""


class Draining(BackendUnavailable):
    """This server is stopping and takes no new requests."""


class ErrorRow(NamedTuple):
    """What an error is called on the wires; ``grpc_code`` is the name of a ``grpc.StatusCode``."""

    http_status: int
    error_type: str
    grpc_code: str


ERROR_TABLE: Final[Mapping[type[ServiceError], ErrorRow]] = {
    InvalidRequest: ErrorRow(422, "validation", "INVALID_ARGUMENT"),
    ModelNotFound: ErrorRow(404, "not_found", "NOT_FOUND"),
    RequestTooLarge: ErrorRow(413, "too_large", "INVALID_ARGUMENT"),
    Overloaded: ErrorRow(429, "overloaded", "RESOURCE_EXHAUSTED"),
    ClientClosed: ErrorRow(499, "client_closed", "CANCELLED"),
    BackendFailed: ErrorRow(502, "generation", "INTERNAL"),
    BackendUnavailable: ErrorRow(503, "unavailable", "UNAVAILABLE"),
    Draining: ErrorRow(503, "unavailable", "UNAVAILABLE"),
    DeadlineExceeded: ErrorRow(504, "timeout", "DEADLINE_EXCEEDED"),
}
"""One row for every class but the abstract root."""


def error_row(error: ServiceError) -> ErrorRow:
    """The row of the error's class."""
    return ERROR_TABLE[type(error)]
