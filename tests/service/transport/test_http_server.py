"""The timers of connections, on a real server and real sockets."""

import asyncio
import socket
import time
from contextlib import asynccontextmanager

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from service.settings import Settings
from service.transport.call import read_body
from service.transport.http_server import MAX_HEADER_BYTES, HttpServer


async def _echo(scope, receive, send):
    body = await read_body(Request(scope, receive), 10_000_000)
    await PlainTextResponse(body)(scope, receive, send)


@asynccontextmanager
async def _connection(**settings):
    """Reader and writer of a connection to a new server."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(_echo, Settings(**settings))
    serving = asyncio.create_task(server.serve([listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


async def _seconds_until_closed(reader):
    started = time.monotonic()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    return time.monotonic() - started


@pytest.mark.parametrize("first_bytes", [b"", b"\r\n", b"POST / HT", b"POST / HTTP/1.1\r\nhost: a\r\nx: "])
def test_a_connection_that_sends_no_whole_headers_is_closed(first_bytes):
    async def scenario():
        async with _connection(header_timeout_s=0.3) as (reader, writer):
            writer.write(first_bytes)
            return await _seconds_until_closed(reader)

    assert 0.2 < asyncio.run(scenario()) < 2


def test_headers_that_trickle_do_not_win_time():
    async def scenario():
        async with _connection(header_timeout_s=0.3) as (reader, writer):
            closed = asyncio.create_task(_seconds_until_closed(reader))
            for byte in b"POST / HTTP/1.1\r\nhost: a\r\n":
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
                if closed.done():
                    break
            return await closed

    assert asyncio.run(scenario()) < 1


def test_a_body_that_does_not_arrive_closes_the_connection():
    async def scenario():
        async with _connection(default_timeout_ms=300, max_timeout_ms=300) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab")
            return await _seconds_until_closed(reader)

    assert 0.2 < asyncio.run(scenario()) < 2


def test_an_idle_connection_is_kept_between_requests_and_then_closed():
    async def scenario():
        async with _connection(header_timeout_s=0.2, idle_timeout_s=0.6) as (reader, writer):
            for _ in range(2):
                writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi")
                assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200")
                await asyncio.sleep(0.3)  # longer than headers may take
            return await _seconds_until_closed(reader)

    assert asyncio.run(scenario()) < 2


def test_endless_headers_are_refused():
    async def scenario():
        async with _connection() as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nx: " + b"a" * MAX_HEADER_BYTES)
            return await asyncio.wait_for(reader.read(), 5)

    assert asyncio.run(scenario()).startswith(b"HTTP/1.1 400")


def test_a_body_may_be_longer_than_headers_may():
    async def scenario():
        async with _connection() as (reader, writer):
            body = b"a" * (4 * MAX_HEADER_BYTES)
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(body)) == body

    asyncio.run(scenario())
