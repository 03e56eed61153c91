"""uvicorn with what it lacks: signals are left to its owner, and a connection has only so long to send a request
and to read its answer.
"""

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
            TimedProtocol,
            header_timeout_s=settings.header_timeout_s,
            body_timeout_s=settings.max_timeout_ms / 1000,
            write_timeout_s=settings.write_timeout_s,
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

    While a request that has arrived is answered nothing is due, whatever else the client sends: that has its turn after
    the answer. Between requests uvicorn's own keep-alive timer runs. What is written has a timer of its own, from where
    the client's side takes no more until it has taken all.
    """

    def __init__(
        self, *args: Any, header_timeout_s: float, body_timeout_s: float, write_timeout_s: float, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._header_timeout_s = header_timeout_s
        self._body_timeout_s = body_timeout_s
        self._write_timeout_s = write_timeout_s
        self._due_s: float | None = None  # time for what is to arrive
        self._timer: asyncio.TimerHandle | None = None  # of that; what arrives in one piece needs none
        self._receiving = False
        self._write_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_headers = False
        self._in_body = False
        self._unanswered = 0  # requests of which at least the headers are here
        self._refusal: str | None = None  # of what came after them

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request's headers are due."""
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]  # it does what that does
        transport.set_write_buffer_limits(0)  # so that writing is paused as long as anything is left to be sent
        self._arm(self._header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._disarm()
        self._disarm_write()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client is to read what it was sent; one that does not would never see the end of a mere ``close``."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """All is sent."""
        self._disarm_write()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Bytes of headers or of a body."""
        if self._refusal is not None:
            return
        self._receiving = True
        if not self._in_body:
            self._header_bytes += len(data)
            if self._due_s is None and not self._unanswered:
                self._arm(self._header_timeout_s)
        super().data_received(data)
        self._receiving = False
        self._start_timer()
        if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's headers are too large.")

    def send_400_response(self, msg: str) -> None:
        """Refuse what came and close, but not in the middle of an answer to what came before."""
        if self._answering:
            self._refusal = msg
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """The first byte of a request is here."""
        self._in_headers = True
        if self._due_s is None and not self._unanswered:  # it came with the end of a body that was answered before
            self._unset_keepalive_if_required()
            self._arm(self._header_timeout_s)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The body is due, or will be once earlier requests are answered: until then it may not be read."""
        super().on_headers_complete()
        self._in_headers = False
        self._in_body = True
        self._header_bytes = 0
        self._unanswered += 1
        if self._unanswered == 1:
            self._arm(self._body_timeout_s)

    def on_message_complete(self) -> None:
        """The request is here."""
        self._in_body = False
        self._disarm()
        super().on_message_complete()
        if not self._unanswered:  # its answer came first, and the rest of its body ended uvicorn's timer
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """It is the turn of what came during the answer."""
        self._unanswered -= 1
        if self._refusal is not None and not self._answering and not self.transport.is_closing():
            super().send_400_response(self._refusal)
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._in_headers and not self._unanswered:
            self._unset_keepalive_if_required()
            self._arm(self._header_timeout_s)
        elif self._in_body and self._unanswered == 1:
            self._arm(self._body_timeout_s)

    @property
    def _answering(self) -> bool:
        """Whether an answer is on its way, or due to a request that is here as a whole."""
        return self._unanswered > int(self._in_body and not self.cycle.response_started)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._due_s = seconds
        if not self._receiving:
            self._start_timer()

    def _start_timer(self) -> None:
        if self._due_s is not None and self._timer is None:
            self._timer = self.loop.call_later(self._due_s, self.transport.close)

    def _disarm(self) -> None:
        self._due_s = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _disarm_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class JoinedWrites:
    """A transport that sends the head of an answer, which is written by itself, in one packet with what comes next."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None
        self.is_closing = transport.is_closing  # asked at every answer

    def write(self, data: bytes) -> None:
        """Hold what comes first until the loop goes on."""
        if self._held is None:
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            held, self._held = self._held, None
            self._transport.write(held + data)

    def close(self) -> None:
        """Close it once all is sent."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(held)
