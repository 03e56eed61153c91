from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.http_load import Exchange, exchange, post

BODIES = [json.dumps({"inputs": str(number)}).encode() for number in range(20)]


async def serve_and_ask(answer: Callable[[bytes], bytes], requests: list[bytes], clients: int) -> list[Exchange]:
    """Ask a server on a free port; ``answer`` gets the body of each request."""

    writers = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                response = answer(await reader.readexactly(length))
                for part in (response[:30], response[30:]):  # an answer may come in pieces
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        except asyncio.IncompleteReadError:
            writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        try:
            return await exchange(port, requests, clients)
        finally:
            for writer in writers:
                writer.close()
                await writer.wait_closed()


def response(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


def run(asking: Awaitable[list[Exchange]]) -> list[Exchange]:
    return asyncio.run(asyncio.wait_for(asking, 30.0))


def test_every_request_is_answered_once() -> None:
    requests = [post("/", json.loads(body)) for body in BODIES]

    found = run(serve_and_ask(lambda body: response(b"200 OK", b"to " + body), requests, clients=3))

    assert sorted((each.index, each.answer) for each in found) == [
        (index, b"to " + body) for index, body in enumerate(BODIES)
    ]
    assert all(each.sent < each.answered for each in found)


def test_a_refusal_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="refused: b'too much'"):
        run(serve_and_ask(lambda body: response(b"429 Too Many Requests", b"too much"), [post("/", {})], clients=1))


def test_a_server_that_hangs_up_is_an_error() -> None:
    class HangUp(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.abort()

    async def ask() -> list[Exchange]:
        async with await asyncio.get_running_loop().create_server(HangUp, "127.0.0.1", 0) as server:
            return await exchange(server.sockets[0].getsockname()[1], [post("/", {})], clients=1)

    with pytest.raises(ConnectionError):
        run(ask())
