"""What every gRPC call has, whatever it asks for: an id, a clock, errors by the one table, a line in the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, TypeAlias

import grpc
import grpc.aio

from service.errors import INTERNAL_ERROR_TYPE, ClientClosed, DeadlineExceeded, ServiceError, error_row
from service.generation import StageTimings
from service.telemetry import Telemetry, log_event
from service.transport.shared import FAULT, log_call, milliseconds, safe_request_id

LONGEST_MESSAGE: Final = 2000
"""Bytes of an error's message: each may take three in the trailers, of which clients take 8 KiB."""


class Call:
    """One call on its way."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self._started = time.perf_counter()
        self._given_s = self.remaining_s
        given = dict(context.invocation_metadata() or ()).get("x-request-id")
        self.request_id = safe_request_id(given if isinstance(given, str) else None)
        self.timings: StageTimings | None = None

    @property
    def total_s(self) -> float:
        """Seconds since it came."""
        return time.perf_counter() - self._started

    @property
    def remaining_s(self) -> float | None:
        """Seconds until its deadline, 0 where that has passed; None: it has none."""
        remaining: float | None = self._context.time_remaining()
        return remaining

    @property
    def is_late(self) -> bool:
        """Whether its client has given up because of the deadline, which it told rounded up by up to 1 %."""
        return self._given_s is not None and (self.remaining_s or 0.0) <= 0.02 * self._given_s

    async def write(self, message: bytes) -> None:
        """Send one of several answers."""
        await self._context.write(message)

    def metadata(self) -> dict[str, str]:
        """What is told beside an answer or an error."""
        told = {"x-request-id": self.request_id}
        if self.timings is not None:
            told["x-queue-time"] = milliseconds(self.timings.queue_s)
            told["x-inference-time"] = milliseconds(self.timings.inference_s)
        return told | {"x-total-time": milliseconds(self.total_s)}


Method: TypeAlias = Callable[[Any, Call], Awaitable[bytes | None]]
"""Bytes of the request (or several of them, as they come) -> bytes of the answer, None if all are written already."""
Behaviour: TypeAlias = Callable[[Any, grpc.aio.ServicerContext], Awaitable[bytes | None]]
"""What grpc.aio calls."""


class Calls:
    """Makes behaviours of methods, which do nothing but answer or raise an error."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def behaviour(self, operation: str, method: Method, *, quiet: bool = False) -> Behaviour:
        """``quiet``: machines ask it all the time and hang up as they please; logged at debug, errors not counted."""

        async def behave(request: Any, context: grpc.aio.ServicerContext) -> bytes | None:
            call = Call(context)
            failure: _Failure | None = None
            answer: bytes | None = None
            try:
                answer = await method(request, call)
            except asyncio.CancelledError:
                cause = DeadlineExceeded if call.is_late else ClientClosed
                failure = _failure(cause("nobody reads this"))
                raise
            except Exception as error:  # noqa: BLE001  told and logged below; grpc itself would answer UNKNOWN
                failure = _failure(error)
                if failure.error_type == INTERNAL_ERROR_TYPE:
                    log_event("unexpected error", logging.ERROR, error=error, request_id=call.request_id)
            finally:
                if failure is not None and not quiet:
                    self._telemetry.count_failure(failure.error_type)
                status = "OK" if failure is None else failure.status
                log_call(call.request_id, call.total_s, quiet=quiet, method="gRPC", operation=operation, status=status)
            context.set_trailing_metadata(tuple((call.metadata() | (failure.metadata() if failure else {})).items()))
            if failure is not None:
                details = failure.message.encode(errors="replace")[:LONGEST_MESSAGE].decode(errors="ignore")
                await context.abort(grpc.StatusCode[failure.status], details)
            return answer

        return behave


class _Failure(NamedTuple):
    """What a client is told of an error."""

    status: str
    error_type: str
    message: str
    retry_after_s: int | None

    def metadata(self) -> dict[str, str]:
        told = {"error-type": self.error_type}
        return told if self.retry_after_s is None else told | {"retry-after": str(self.retry_after_s)}


def _failure(error: Exception) -> _Failure:
    if not isinstance(error, ServiceError):
        return _Failure("INTERNAL", INTERNAL_ERROR_TYPE, FAULT, None)
    row = error_row(error)
    return _Failure(row.grpc_code, row.error_type, error.message, error.retry_after_s)
