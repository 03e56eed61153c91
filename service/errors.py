"""Everything that can go wrong with a request, and what it is called on each wire.

ServiceError
├── InvalidRequest          a field is wrong; the message says what would be right
├── ModelNotFound           no such model or version, or it was refused
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

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from typing_extensions import Self


class ServiceError(Exception):
    """A request that is not answered; the message is written for the client and quotes no text of a request at length.

    ``retry_after_s``: after how many whole seconds another try makes sense, None where waiting changes nothing.
    """

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s

    def copy(self) -> Self:
        """The same error as an object of its own: raising one in several tasks would pile up their tracebacks in it."""
        return type(self)(self.message, retry_after_s=self.retry_after_s)


class InvalidRequest(ServiceError):
    """A field is wrong; the message names it and says what would be right."""


class ModelNotFound(ServiceError):
    """No such model or version, or no such route. A version that was refused is none: waiting does not bring it."""


class RequestTooLarge(ServiceError):
    """The body exceeds ``max_body_bytes``."""


class Overloaded(ServiceError):
    """The queue is full; trying again after ``retry_after_s`` seconds makes sense."""

    retry_after_s: int

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class ClientClosed(ServiceError):
    """The client hung up; nobody reads this answer, but logs and metrics do."""


class DeadlineExceeded(ServiceError):
    """No answer within the request's time."""


class BackendFailed(ServiceError):
    """The model's graph failed on this input."""


class BackendUnavailable(ServiceError):
    """The model cannot be reached or is not ready yet."""

    def __init__(self, message: str, *, retry_after_s: int | None = 1) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


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


INTERNAL_ERROR_TYPE: Final = "internal"
"""Of what no error of the table is, and a fault of ours alone can cause."""
ANSWERED: Final = "answered"


def error_row(error: ServiceError) -> ErrorRow:
    """The row of the error's class."""
    return ERROR_TABLE[type(error)]


def outcome(error: BaseException | None) -> str:
    """What became of a call, as metrics name it: ``ANSWERED``, or the type of its error."""
    if error is None:
        return ANSWERED
    if isinstance(error, asyncio.CancelledError):
        return ERROR_TABLE[ClientClosed].error_type  # nobody else cancels
    return error_row(error).error_type if isinstance(error, ServiceError) else INTERNAL_ERROR_TYPE
