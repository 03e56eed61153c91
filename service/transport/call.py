"""What every HTTP call has, whatever it asks for: an id, a clock, errors in one envelope, a line in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import INTERNAL_ERROR_TYPE, ClientClosed, RequestTooLarge, ServiceError, error_row
from service.telemetry import Telemetry, log_event
from service.transport.json_body import dump_json
from service.transport.shared import FAULT, log_call, milliseconds, safe_request_id

JSON: Final = "application/json"
QUIET_OPERATIONS: Final = ("livez", "readyz", "metrics")
"""Asked every few seconds by machines; logged at debug."""


class CallMiddleware:
    """Wraps the whole application: nothing raised inside gets past it, and every answer carries id and total time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-total-time"] = milliseconds(time.perf_counter() - started)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001  it has been answered with 500; the connection must live on
            log_event("unexpected error", logging.ERROR, error=error, request_id=request_id)
        _log(scope, request_id, status, time.perf_counter() - started)


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(dump_json(value), status, headers, JSON)


class ErrorResponses:
    """Every error as its status and envelope, counted."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def service_error(self, request: Request, error: Exception) -> Response:
        """An error of the table."""
        assert isinstance(error, ServiceError)
        row = error_row(error)
        headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
        return self._answer(row.http_status, row.error_type, error.message, headers)

    async def http_error(self, request: Request, error: Exception) -> Response:
        """What the router refuses: an unknown path or a wrong method."""
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return self._answer(404, "not_found", "there is no such path: GET /docs shows those there are")
        if error.status_code == 405:
            allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            return self._answer(405, "validation", f"wrong method: this path takes {allowed}", {"allow": allowed})
        return self._answer(error.status_code, "validation", error.detail)

    async def unexpected(self, request: Request, error: Exception) -> Response:
        """A fault of ours; ``CallMiddleware`` logs it."""
        return self._answer(500, INTERNAL_ERROR_TYPE, FAULT)

    def _answer(self, status: int, error_type: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
        self._telemetry.count_failure(error_type)
        return json_response({"error": message, "error_type": error_type}, status, headers)


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of which no more than ``limit`` bytes are ever held.

    Raises:
        RequestTooLarge: it is longer, or says so in its Content-Length.
        ClientClosed: the client hung up before its end.
    """
    too_large = RequestTooLarge(f"the body exceeds {limit} bytes: send fewer or shorter texts in one request")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientClosed("the client hung up while it sent its request")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _request_id(scope: Scope) -> str:
    given = (value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id")
    return safe_request_id(next(given, None))


def _log(scope: Scope, request_id: str, status: int, total_s: float) -> None:
    operation = getattr(scope.get("endpoint"), "__name__", None)  # not the path, which may hold anything
    quiet = operation in QUIET_OPERATIONS
    log_call(request_id, total_s, quiet=quiet, method=scope["method"], operation=operation, status=status)
