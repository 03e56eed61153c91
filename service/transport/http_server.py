"""uvicorn with what it lacks: signals are left to its owner, and a connection has only so long to send a request."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import Settings

MAX_HEADER_BYTES: Final = 65_536
"""Of a request's line and headers together; a connection that sends more is closed."""
LAST_WRITES_S: Final = 2
"""Time to write the last answers, after the engine has given them all."""


class HttpServer(uvicorn.Server):
    """Runs until ``should_exit``. uvicorn itself would end the process by the signal that stopped it, with its code."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        protocol = functools.partial(
            TimedProtocol, header_timeout_s=settings.header_timeout_s, body_timeout_s=settings.max_timeout_ms / 1000
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,  # type: ignore[arg-type]  # called like the class, that is all uvicorn does with it
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=settings.idle_timeout_s,  # type: ignore[arg-type]  # seconds, given to call_later
                timeout_graceful_shutdown=LAST_WRITES_S,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


class TimedProtocol(HttpToolsProtocol):
    """Closes a connection whose request does not arrive: its headers in time and in size, then its body in time.

    Between requests uvicorn's own keep-alive timer runs.
    """

    def __init__(self, *args: Any, header_timeout_s: float, body_timeout_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timeout_s = header_timeout_s
        self._body_timeout_s = body_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request's headers are due."""
        super().connection_made(transport)
        self._arm(self._header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of headers or of a body."""
        if not self._in_body:
            self._header_bytes += len(data)
            if self._timer is None:
                self._arm(self._header_timeout_s)
        super().data_received(data)
        if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's headers are too large.")

    def on_headers_complete(self) -> None:
        """The body is due."""
        self._in_body = True
        self._header_bytes = 0
        self._arm(self._body_timeout_s)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is here."""
        self._in_body = False
        self._disarm()
        super().on_message_complete()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
