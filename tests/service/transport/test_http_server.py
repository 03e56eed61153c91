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


async def _slow_echo(scope, receive, send):
    body = await read_body(Request(scope, receive), 10_000_000)
    await asyncio.sleep(0.8)
    await PlainTextResponse(body)(scope, receive, send)


@asynccontextmanager
async def _connection(app=_echo, **settings):
    """Reader and writer of a connection to a new server."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(app, Settings(**settings))
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


REQUEST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_stray_line_end_does_not_cut_off_an_answer_nor_end_its_connection(at_once):
    async def scenario():
        async with _connection(_slow_echo, header_timeout_s=0.3) as (reader, writer):
            for _ in range(2):
                writer.write(REQUEST + b"\r\n" * at_once)
                await asyncio.sleep(0.1)
                writer.write(b"\r\n")
                assert (await asyncio.wait_for(reader.readuntil(b"hi"), 5)).startswith(b"HTTP/1.1 200")
                await asyncio.sleep(0.4)  # longer than headers may take, less than a connection may idle

    asyncio.run(scenario())


def test_pipelined_requests_are_answered_in_turn():
    async def scenario():
        async with _connection(_slow_echo, header_timeout_s=0.3) as (reader, writer):
            writer.write(REQUEST + REQUEST)
            for _ in range(2):
                assert (await asyncio.wait_for(reader.readuntil(b"hi"), 5)).startswith(b"HTTP/1.1 200")

    asyncio.run(scenario())


@pytest.mark.parametrize("at_once", [True, False])
def test_headers_that_begin_during_an_answer_are_due_after_it(at_once):
    async def scenario():
        async with _connection(_slow_echo, header_timeout_s=0.3, idle_timeout_s=60) as (reader, writer):
            writer.write(REQUEST + b"PO" * at_once)
            await asyncio.sleep(0.1)
            writer.write(b"ST /" if at_once else b"POST /")
            assert (await asyncio.wait_for(reader.readuntil(b"hi"), 5)).startswith(b"HTTP/1.1 200")
            return await _seconds_until_closed(reader)

    assert 0.2 < asyncio.run(scenario()) < 2


def test_a_body_is_due_after_the_answers_before_it():
    async def scenario():
        settings = {"default_timeout_ms": 300, "max_timeout_ms": 300}
        async with _connection(_slow_echo, **settings) as (reader, writer):
            writer.write(REQUEST + REQUEST[:-1])
            assert (await asyncio.wait_for(reader.readuntil(b"hi"), 5)).startswith(b"HTTP/1.1 200")
            return await _seconds_until_closed(reader)

    assert 0.2 < asyncio.run(scenario()) < 2


@pytest.mark.parametrize(
    "after", [b"\0", b"\r\n" * MAX_HEADER_BYTES, b"POST / HTTP/1.1\r\nx: " + b"a" * MAX_HEADER_BYTES]
)
@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_malformed_is_refused_after_the_answer_before_it(after, at_once):
    async def scenario():
        async with _connection(_slow_echo, header_timeout_s=0.3) as (reader, writer):
            writer.write(REQUEST + after * at_once)
            await asyncio.sleep(0.1)
            writer.write(after)
            assert (await asyncio.wait_for(reader.readuntil(b"hi"), 5)).startswith(b"HTTP/1.1 200")
            return await asyncio.wait_for(reader.read(), 5)

    refusal = asyncio.run(scenario())
    assert refusal.startswith(b"HTTP/1.1 400")
    assert refusal.count(b"HTTP/1.1") == 1


def test_a_malformed_body_is_refused_at_once():
    async def scenario():
        async with _connection(_slow_echo) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nno size\r\n")
            return await asyncio.wait_for(reader.read(), 5)

    assert asyncio.run(scenario()).startswith(b"HTTP/1.1 400")
