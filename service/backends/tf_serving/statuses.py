"""What each gRPC status of TF Serving means here: ONE table, and the few messages that say more than their status.

Messages for clients name no address and quote only the first line of what TF Serving says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import grpc
import grpc.aio

from service.backends.tf_serving.wire import first_line
from service.errors import (
    BackendFailed,
    BackendUnavailable,
    DeadlineExceeded,
    ModelNotFound,
    Overloaded,
    ServiceError,
)

RETRY_AFTER_S: Final = 1
"""A busy or restarting TF Serving is worth another try after it."""

STATUS_TABLE: Final[Mapping[grpc.StatusCode, type[ServiceError]]] = {
    grpc.StatusCode.CANCELLED: BackendUnavailable,
    grpc.StatusCode.UNKNOWN: BackendFailed,
    grpc.StatusCode.INVALID_ARGUMENT: BackendFailed,  # requests are checked before they leave: the artifact differs
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: BackendFailed,  # of the graph; a version that is not there says so
    grpc.StatusCode.ALREADY_EXISTS: BackendFailed,
    grpc.StatusCode.PERMISSION_DENIED: BackendUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,  # "Server Threadpool Exhausted"
    grpc.StatusCode.FAILED_PRECONDITION: BackendFailed,
    grpc.StatusCode.ABORTED: BackendFailed,
    grpc.StatusCode.OUT_OF_RANGE: BackendFailed,
    grpc.StatusCode.UNIMPLEMENTED: BackendFailed,
    grpc.StatusCode.INTERNAL: BackendFailed,
    grpc.StatusCode.UNAVAILABLE: BackendUnavailable,
    grpc.StatusCode.DATA_LOSS: BackendFailed,
    grpc.StatusCode.UNAUTHENTICATED: BackendUnavailable,
}
"""One row for every status but OK."""

_SPECIAL: Final[Mapping[grpc.StatusCode, Mapping[str, type[ServiceError]]]] = {
    grpc.StatusCode.NOT_FOUND: {
        "Servable not found for request": ModelNotFound,
        "Could not find any versions of model": ModelNotFound,
    },
    grpc.StatusCode.UNAVAILABLE: {"batch scheduling queue": Overloaded},  # of a server that batches: alive, and busy
    grpc.StatusCode.RESOURCE_EXHAUSTED: {"message larger than max": BackendFailed},  # said by gRPC itself, for ever
}
"""By a part of the message, where it decides."""


def service_error(code: grpc.StatusCode, details: str | None) -> ServiceError:
    """The error of ours for a call that ended with ``code``."""
    kind = STATUS_TABLE[code]
    for part, special in _SPECIAL.get(code, {}).items():
        if part in (details or ""):
            kind = special
    if kind is Overloaded:
        return Overloaded("TF Serving takes no more calls now", retry_after_s=RETRY_AFTER_S)
    if kind is BackendUnavailable:
        return BackendUnavailable(f"TF Serving cannot be reached ({code.name})", retry_after_s=RETRY_AFTER_S)
    if kind is DeadlineExceeded:
        return DeadlineExceeded("the model did not answer within the time of the request")
    if kind is ModelNotFound:
        return ModelNotFound("TF Serving does not have this version of the model, or no longer")
    return BackendFailed(f"the model failed: {first_line(details) or code.name}")


def without_addresses(error: ServiceError) -> str:
    """What gRPC said to an error of ours, for the log, which never holds an address."""
    cause = error.__cause__
    details = cause.details() if isinstance(cause, grpc.aio.AioRpcError) else None
    return re.sub(r"ipv[46]:\S+", "...", first_line(details)) or error.message
