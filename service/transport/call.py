"""What every HTTP call has, whatever it asks for: an id, a clock, errors in one envelope, a line in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import INTERNAL_ERROR_TYPE, ClientClosed, RequestTooLarge, ServiceError, error_row
from service.telemetry import Telemetry, log_event
from service.transport.json_body import dump_json
from service.transport.shared import FAULT, log_call, milliseconds, safe_request_id

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names in small letters, and values."""
JSON: Final = b"application/json"
QUIET_OPERATIONS: Final = ("livez", "readyz", "metrics")
"""Asked every few seconds by machines; logged at debug."""


class CallMiddleware:
    """Wraps the whole application: nothing raised inside gets past it, and every answer carries id and total time."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[tuple[str, str], Endpoint], telemetry: Telemetry) -> None:
        """``endpoints``: of ``app``, by method and path; those that are found so need no routing."""
        self._app = app
        self._endpoints = endpoints
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = safe_request_id(header(scope, b"x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                total = milliseconds(time.perf_counter() - started)
                told = (b"x-request-id", request_id.encode()), (b"x-total-time", total.encode())
                message["headers"] = [*message["headers"], *told]
            await send(message)

        try:
            endpoint = scope["endpoint"] = self._endpoints.get((scope["method"], scope["path"]))
            await (endpoint or self._app)(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001  it is answered; the connection must live on
            response = self._error_response(error, request_id)
            if not status:
                await response(scope, receive, send_with_headers)
        _log(scope, request_id, status, time.perf_counter() - started)

    def _error_response(self, error: Exception, request_id: str) -> Answer:
        status, error_type, message, headers = _told(error)
        if error_type == INTERNAL_ERROR_TYPE:
            log_event("unexpected error", logging.ERROR, error=error, request_id=request_id)
        self._telemetry.count_failure(error_type)
        return Answer(dump_json({"error": message, "error_type": error_type}), status, headers)


class Endpoint:
    """What answers a route, as an ASGI application: a mere function Starlette would wrap twice, at each call."""

    def __init__(self, answer: Callable[[Request], Awaitable[ASGIApp]]) -> None:
        self.__name__ = answer.__name__
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        answer = await self._answer(Request(scope, receive))
        await answer(scope, receive, send)


class Answer:
    """An answer, as an ASGI application; Starlette's would take three times as long to be made."""

    __slots__ = ("_body", "_headers", "_status")

    def __init__(self, body: bytes, status: int = 200, headers: Headers = (), media_type: bytes = JSON) -> None:
        self._body = body
        self._status = status
        self._headers = *headers, (b"content-length", b"%d" % len(body)), (b"content-type", media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


def json_answer(value: object) -> Answer:
    """An answer in JSON."""
    return Answer(dump_json(value))


def _told(error: Exception) -> tuple[int, str, str, Headers]:
    """Status, type, message and headers of what a client is told of ``error``."""
    if isinstance(error, ServiceError):
        row = error_row(error)
        headers = () if error.retry_after_s is None else ((b"retry-after", b"%d" % error.retry_after_s),)
        return row.http_status, row.error_type, error.message, headers
    if not isinstance(error, HTTPException):
        return 500, INTERNAL_ERROR_TYPE, FAULT, ()
    if error.status_code == 404:
        return 404, "not_found", "there is no such path: GET /docs shows those there are", ()
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return 405, "validation", f"wrong method: this path takes {allowed}", ((b"allow", allowed.encode()),)
    return error.status_code, "validation", error.detail, ()


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of which no more than ``limit`` bytes are ever held.

    Raises:
        RequestTooLarge: it is longer, or says so in its Content-Length.
        ClientClosed: the client hung up before its end.
    """
    declared = header(request.scope, b"content-length") or ""
    size = int(declared[:20]) if declared.isdecimal() else 0
    chunks: list[bytes] = []
    while size <= limit:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientClosed("the client hung up while it sent its request")
        chunks.append(message.get("body", b""))
        size = max(size, sum(map(len, chunks)))
        if not message.get("more_body", False) and size <= limit:
            return b"".join(chunks)
    raise RequestTooLarge(f"the body exceeds {limit} bytes: send fewer or shorter texts in one request")


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name (in small letters), None if there is none."""
    for each, value in scope["headers"]:
        if each == name:
            return value.decode("latin-1")  # type: ignore[no-any-return]
    return None


def _log(scope: Scope, request_id: str, status: int, total_s: float) -> None:
    operation = getattr(scope.get("endpoint"), "__name__", None)  # not the path, which may hold anything
    quiet = operation in QUIET_OPERATIONS
    log_call(request_id, total_s, quiet=quiet, method=scope["method"], operation=operation, status=status)
