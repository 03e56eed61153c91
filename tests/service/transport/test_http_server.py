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
from service.transport.http_server import MAX_HEADER_BYTES, HttpServer, JoinedWrites


async def _echo(scope, receive, send):
    body = await read_body(Request(scope, receive), 10_000_000)
    await PlainTextResponse(body)(scope, receive, send)


async def _slow_echo(scope, receive, send):
    body = await read_body(Request(scope, receive), 10_000_000)
    await asyncio.sleep(0.8)
    await PlainTextResponse(body)(scope, receive, send)


@asynccontextmanager
async def _server(app=_echo, **settings):
    """A new server, and where it listens; its sockets, and those connected to it, buffer little."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = HttpServer(app, Settings(**settings))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield server, listener.getsockname()
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def _connection(app=_echo, **settings):
    """Reader and writer of a connection to a new server."""
    async with _server(app, **settings) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        try:
            yield reader, writer
        finally:
            writer.close()


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


async def _refuse_unread(scope, receive, send):
    await PlainTextResponse("no", 413)(scope, receive, send)


@pytest.mark.parametrize("begun", [b"", b"POST /"])
def test_a_connection_whose_body_comes_after_its_answer_is_closed_too(begun):
    """Idle, in the time of an idle one; where a next request has begun, when its headers are due."""
    times = {"header_timeout_s": 0.3, "idle_timeout_s": 60} if begun else {"idle_timeout_s": 0.3}

    async def scenario():
        async with _connection(_refuse_unread, **times) as (reader, writer):
            writer.write(REQUEST[:-1])
            assert (await asyncio.wait_for(reader.readuntil(b"no"), 5)).startswith(b"HTTP/1.1 413")
            writer.write(REQUEST[-1:] + begun)
            return await _seconds_until_closed(reader)

    assert 0.2 < asyncio.run(scenario()) < 2


def test_an_idle_timer_that_began_with_a_late_body_does_not_cut_off_the_next_answer():
    async def app(scope, receive, send):
        if scope["path"] == "/refuse":
            await _refuse_unread(scope, receive, send)
        else:
            await _slow_echo(scope, receive, send)

    async def scenario():
        async with _connection(app, idle_timeout_s=0.3) as (reader, writer):
            first = REQUEST.replace(b"/", b"/refuse", 1)
            writer.write(first[:-1])
            assert (await asyncio.wait_for(reader.readuntil(b"no"), 5)).startswith(b"HTTP/1.1 413")
            writer.write(first[-1:] + REQUEST)
            assert (await asyncio.wait_for(reader.readuntil(b"hi"), 5)).startswith(b"HTTP/1.1 200")

    asyncio.run(scenario())


# --- answers that are not read ----------------------------------------------------------------------------------------

LITTLE, MUCH = 60_000, 3_000_000
"""Bytes of an answer: less than asyncio calls a full buffer but more than the sockets hold, and more than anything."""


@asynccontextmanager
async def _request_of_a_deaf_client(address):
    """A socket that sent a request and reads nothing."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, address)
        await loop.sock_sendall(client, REQUEST)
        yield client


async def _until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen in 5 s")


@pytest.mark.parametrize("size", [LITTLE, MUCH])
def test_an_answer_that_is_not_read_closes_the_connection(size):
    async def app(scope, receive, send):
        await PlainTextResponse(b"a" * size)(scope, receive, send)

    async def scenario():
        async with _server(app, write_timeout_s=0.3) as (server, address), _request_of_a_deaf_client(address):
            connections = server.server_state.connections
            await _until(lambda: connections)
            started = time.monotonic()
            await _until(lambda: not connections)
            return time.monotonic() - started

    assert 0.2 < asyncio.run(scenario()) < 2


def test_what_waits_to_send_to_a_client_that_does_not_read_is_freed():
    stages = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a" * MUCH, "more_body": True})
        stages.append("waits")
        await send({"type": "http.response.body", "body": b"a"})
        stages.append("freed")

    async def scenario():
        async with _server(app, write_timeout_s=0.3) as (_, address), _request_of_a_deaf_client(address):
            await _until(lambda: stages)
            await asyncio.sleep(0.1)
            assert stages == ["waits"]
            await _until(lambda: stages == ["waits", "freed"])

    asyncio.run(scenario())


def test_an_answer_that_is_read_in_time_keeps_its_connection():
    size = MUCH // 3  # on a busy machine too it is read in the time that is left

    async def app(scope, receive, send):
        await PlainTextResponse(b"a" * size)(scope, receive, send)

    async def scenario():
        loop = asyncio.get_running_loop()
        async with _server(app, write_timeout_s=1.0) as (_, address), _request_of_a_deaf_client(address) as client:
            for _ in range(2):
                await asyncio.sleep(0.3)
                received = bytearray()
                while len(received.partition(b"\r\n\r\n")[2]) < size:
                    received += (chunk := await asyncio.wait_for(loop.sock_recv(client, 1_000_000), 5))
                    assert chunk, "the connection was closed"
                assert received.startswith(b"HTTP/1.1 200")
                await asyncio.sleep(1.1)  # longer than a write may take, but there is none
                await loop.sock_sendall(client, REQUEST)

    asyncio.run(scenario())


# --- packets ----------------------------------------------------------------------------------------------------------


class _Recorder:
    """A transport that remembers what it is told."""

    def __init__(self):
        self.told = []

    def write(self, data):
        self.told.append(data)

    def close(self):
        self.told.append("close")

    def is_closing(self):
        return "close" in self.told


def test_the_head_of_an_answer_is_sent_with_its_body_and_what_is_alone_soon():
    async def scenario():
        recorder = _Recorder()
        joined = JoinedWrites(recorder, asyncio.get_running_loop())
        joined.write(b"head")
        assert recorder.told == []
        joined.write(b"body")
        joined.write(b"more")
        await asyncio.sleep(0)
        joined.write(b"last")
        joined.close()
        await asyncio.sleep(0)
        assert joined.is_closing()
        return recorder.told

    assert asyncio.run(scenario()) == [b"headbody", b"more", b"last", "close"]
