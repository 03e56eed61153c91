"""Clients that cost little: raw HTTP/1.1 on kept connections, each asking again as soon as it is answered."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple


class Exchange(NamedTuple):
    """A request and its answer; times are of ``time.perf_counter``."""

    index: int  # of the request, in the order in which they were sent
    sent: float
    answered: float
    answer: bytes


class Client(asyncio.Protocol):
    """One connection that takes its requests from ``requests``, which all clients share, until there are no more."""

    def __init__(self, requests: Iterator[tuple[int, bytes]]) -> None:
        self._requests = requests
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._asked = (0, 0.0)
        self.exchanges: list[Exchange] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length is not None and len(body) == int(length[1]):
            if not head.startswith(b"HTTP/1.1 200 "):
                self.done.set_exception(RuntimeError(f"refused: {body[:200]!r}"))
                return
            self.exchanges.append(Exchange(*self._asked, time.perf_counter(), body))
            self._received = b""
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))

    def _ask(self) -> None:
        assert self._transport is not None
        request = next(self._requests, None)
        if request is None:
            self.done.set_result(None)
        else:
            self._asked = request[0], time.perf_counter()
            self._transport.write(request[1])


def post(path: str, fields: Mapping[str, Any]) -> bytes:
    """The bytes of a request with a JSON body."""
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def exchange(port: int, requests: Iterable[bytes], clients: int) -> list[Exchange]:
    """Send all requests to 127.0.0.1; the answers of each client in its order.

    Raises:
        RuntimeError: an answer is none (its status is not 200).
        ConnectionError: the server hung up.
    """
    shared = enumerate(requests)
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Client(shared), "127.0.0.1", port) for _ in range(clients)]
    try:
        await asyncio.gather(*(client.done for _, client in made))
    finally:
        for transport, _ in made:
            transport.close()
    return [each for _, client in made for each in client.exchanges]
